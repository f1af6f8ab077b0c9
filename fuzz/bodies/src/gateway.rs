//! A gateway whose guest is the input. It can ask for names and reach nothing.

use std::time::Duration;

use futures::FutureExt as _;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket, TcpRepr, UdpPacket, UdpRepr,
};
use smolvm_network::{
    ContentConfig, Gateway, GatewayConfig, Limits, LinkConfig, Mode, NetworkPolicy, PolicyHandle,
    UpstreamConfig,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::runtime;

pub(crate) const GUEST_MAC: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 2]);
pub(crate) const GATEWAY_MAC: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 1]);
pub(crate) const GUEST: [&str; 2] = ["172.16.0.2", "fd73:6d6f:6c76::2"];
pub(crate) const GATEWAY: [&str; 2] = ["172.16.0.1", "fd73:6d6f:6c76::1"];

/// Stands for the host's loopback.
pub(crate) const HOST: &str = "172.16.0.3";

/// Longest IP packet.
const MTU: u16 = 1500;

/// Bytes in the link that the other side has not read, at most: more than one input makes.
const LINK_BYTES: usize = 1 << 20;

/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;

/// A gateway and its link.
pub(crate) struct Link {
    stream: DuplexStream,
    gateway: Gateway,
    unread: Vec<u8>,
}

impl Link {
    pub(crate) fn new(mode: Mode) -> Self {
        let (stream, theirs) = tokio::io::duplex(LINK_BYTES);
        let name = "allow *.example.com".parse().expect("a rule");
        let policy = NetworkPolicy::new(mode, vec![name]).expect("one rule");
        let address = |text: &str| text.parse().expect("an address");
        let gateway = Gateway::start(
            theirs,
            GatewayConfig {
                link: LinkConfig {
                    guest_mac: GUEST_MAC.0,
                    gateway_mac: GATEWAY_MAC.0,
                    guest: GUEST.map(address).into(),
                    gateway: vec![
                        format!("{}/24", GATEWAY[0]).parse().expect("a network"),
                        format!("{}/64", GATEWAY[1]).parse().expect("a network"),
                    ],
                    host: vec![address(HOST)],
                    mtu: MTU,
                },
                policy: PolicyHandle::new(&policy),
                upstream: UpstreamConfig::Servers(Vec::new()),
                content: ContentConfig::default(),
                log: runtime::events(),
                causes: None,
                peers: None,
                limits: Limits {
                    max_flows: 16,
                    ..Limits::default()
                },
            },
        );
        Self {
            stream,
            gateway,
            unread: Vec::new(),
        }
    }

    /// Sends bytes as they are. The gateway may have given up the link.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _closed = self.stream.write_all(bytes).await;
    }

    /// Sends a frame.
    pub(crate) async fn send_frame(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).expect("short").to_be_bytes();
        self.send(&length).await;
        self.send(frame).await;
    }

    /// Lets time pass, and returns the frames that the gateway has sent by then.
    pub(crate) async fn frames_after(&mut self, time: Duration) -> Vec<Vec<u8>> {
        tokio::time::sleep(time).await;
        while let Some(Ok(1..)) = self.stream.read_buf(&mut self.unread).now_or_never() {}
        let mut frames = Vec::new();
        while let Some((prefix, rest)) = self.unread.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*prefix)).expect("short");
            let Some(frame) = rest.get(..length) else {
                break;
            };
            check(frame);
            frames.push(frame.to_vec());
            self.unread.drain(..prefix.len() + length);
        }
        frames
    }

    /// Waits until whatever the guest began has run out of time, and ends.
    pub(crate) async fn end(mut self) {
        self.frames_after(Duration::from_secs(20)).await;
        assert!(self.unread.is_empty(), "a part of a frame");
        self.gateway.end().await;
    }
}

/// Checks that a guest's stack takes a frame of the gateway's.
fn check(frame: &[u8]) {
    assert!(frame.len() <= ETHERNET_BYTES + usize::from(MTU), "too long");
    let frame = EthernetFrame::new_checked(frame).expect("an Ethernet frame");
    assert_eq!(frame.src_addr(), GATEWAY_MAC);
    match frame.ethertype() {
        EthernetProtocol::Arp => {
            ArpPacket::new_checked(frame.payload()).expect("an ARP packet");
        }
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).expect("an IPv4 packet");
            assert!(packet.verify_checksum(), "checksum of {packet}");
            let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
            check_transport(packet.next_header(), packet.payload(), from, to);
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).expect("an IPv6 packet");
            let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
            check_transport(packet.next_header(), packet.payload(), from, to);
        }
        EthernetProtocol::Unknown(other) => panic!("protocol {other:#06x}"),
    }
}

fn check_transport(protocol: IpProtocol, bytes: &[u8], from: IpAddress, to: IpAddress) {
    let checksums = ChecksumCapabilities::default();
    match protocol {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(bytes).expect("a TCP segment");
            TcpRepr::parse(&segment, &from, &to, &checksums).expect("a legal segment");
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(bytes).expect("a UDP datagram");
            UdpRepr::parse(&datagram, &from, &to, &checksums).expect("a legal datagram");
        }
        IpProtocol::Icmp | IpProtocol::Icmpv6 => assert!(bytes.len() >= 8, "{bytes:?}"),
        other => panic!("protocol {other}"),
    }
}
