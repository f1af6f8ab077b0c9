//! An IP packet of the guest's, looked at as far as deciding where it goes takes.
//!
//! The packet is hostile: everything is checked before it is used, and what a normal guest never
//! sends, such as fragments (the link takes the largest datagrams whole) or options that route, is
//! refused rather than understood.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

/// Bytes of an IPv4 header without options (RFC 791 §3.1).
const IPV4_HEADER_BYTES: u8 = 20;

/// A packet of the guest's.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Where it comes from; the port is 0 where there is none.
    pub(crate) source: SocketAddr,
    /// Where it goes.
    pub(crate) destination: SocketAddr,
    /// What it carries.
    pub(crate) content: Content,
    /// All of it, from the IP header on.
    pub(crate) bytes: Bytes,
}

/// What a packet carries.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A TCP segment.
    Tcp {
        /// Whether it asks for a new connection.
        is_opening: bool,
    },
    /// A UDP datagram with its payload.
    Udp(Bytes),
    /// An ICMP or ICMPv6 message.
    Icmp(Bytes),
}

/// Why a packet is dropped, as the log tells it.
pub(crate) type DropReason = &'static str;

impl Packet {
    /// Looks at `bytes`, an Ethernet frame's payload of the IP version that its header names.
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, DropReason> {
        let header = match bytes.first().map(|first| first >> 4) {
            Some(4) => ipv4_header(&bytes)?,
            Some(6) => ipv6_header(&bytes)?,
            _ => return Err("no IP packet"),
        };
        let payload = bytes
            .get(header.payload_begins..header.payload_ends)
            .map(|payload| bytes.slice_ref(payload))
            .ok_or("malformed IP header")?;
        let (ports, content) = match header.protocol {
            IpProtocol::Tcp => tcp(&payload)?,
            IpProtocol::Udp => udp(&payload)?,
            IpProtocol::Icmp if header.source.is_ipv4() => ((0, 0), Content::Icmp(payload)),
            IpProtocol::Icmpv6 if header.source.is_ipv6() => ((0, 0), Content::Icmp(payload)),
            IpProtocol::HopByHop
            | IpProtocol::Ipv6Route
            | IpProtocol::Ipv6Opts
            | IpProtocol::Ipv6Frag => return Err("IPv6 extension header"),
            _ => return Err("protocol other than TCP, UDP and ICMP"),
        };
        Ok(Self {
            source: SocketAddr::new(header.source, ports.0),
            destination: SocketAddr::new(header.destination, ports.1),
            content,
            bytes,
        })
    }
}

struct Header {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    payload_begins: usize,
    payload_ends: usize,
}

fn ipv4_header(bytes: &[u8]) -> Result<Header, DropReason> {
    let packet = Ipv4Packet::new_checked(bytes).map_err(|_| "malformed IP header")?;
    if packet.header_len() != IPV4_HEADER_BYTES {
        return Err("IP options");
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Err("IP fragment");
    }
    Ok(Header {
        source: packet.src_addr().into(),
        destination: packet.dst_addr().into(),
        protocol: packet.next_header(),
        payload_begins: usize::from(packet.header_len()),
        payload_ends: usize::from(packet.total_len()),
    })
}

fn ipv6_header(bytes: &[u8]) -> Result<Header, DropReason> {
    let packet = Ipv6Packet::new_checked(bytes).map_err(|_| "malformed IP header")?;
    Ok(Header {
        source: packet.src_addr().into(),
        destination: packet.dst_addr().into(),
        protocol: packet.next_header(),
        payload_begins: packet.header_len(),
        payload_ends: packet.total_len(),
    })
}

fn tcp(payload: &Bytes) -> Result<((u16, u16), Content), DropReason> {
    let segment = TcpPacket::new_checked(&payload[..]).map_err(|_| "malformed TCP header")?;
    let ports = (segment.src_port(), segment.dst_port());
    let is_opening = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
    if ports.0 == 0 || ports.1 == 0 {
        return Err("port 0");
    }
    Ok((ports, Content::Tcp { is_opening }))
}

fn udp(payload: &Bytes) -> Result<((u16, u16), Content), DropReason> {
    let datagram = UdpPacket::new_checked(&payload[..]).map_err(|_| "malformed UDP header")?;
    let ports = (datagram.src_port(), datagram.dst_port());
    if ports.0 == 0 || ports.1 == 0 {
        return Err("port 0");
    }
    let content = payload.slice_ref(datagram.payload());
    Ok((ports, Content::Udp(content)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A UDP datagram from 172.16.0.2:1000 to 192.0.2.1:53 with the payload `hi`.
    const DATAGRAM: &[u8] = &[
        0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 172, 16, 0, 2, 192, 0, 2, 1, 0x03, 0xe8, 0, 53,
        0, 10, 0, 0, b'h', b'i',
    ];

    fn parse_changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<Packet, DropReason> {
        let mut bytes = DATAGRAM.to_vec();
        change(&mut bytes);
        Packet::parse(bytes.into())
    }

    #[test]
    fn datagram_is_what_its_headers_say() {
        let packet = parse_changed(|_| {}).expect("a datagram");
        assert_eq!(packet.source, "172.16.0.2:1000".parse().expect("address"));
        assert_eq!(packet.destination, "192.0.2.1:53".parse().expect("address"));
        let Content::Udp(payload) = packet.content else {
            panic!("not UDP: {:?}", packet.content);
        };
        assert_eq!(payload, "hi");
    }

    #[test]
    fn padding_after_the_packet_is_no_part_of_it() {
        let packet = parse_changed(|bytes| bytes.extend([0; 16])).expect("a datagram");
        assert!(matches!(packet.content, Content::Udp(payload) if payload == "hi"));
    }

    #[test]
    fn what_a_normal_guest_never_sends_is_named() {
        let reason = |change: fn(&mut Vec<u8>)| parse_changed(change).expect_err("dropped");
        assert_eq!(reason(|bytes| bytes[0] = 0x55), "no IP packet");
        assert_eq!(reason(|bytes| bytes[0] = 0x46), "IP options");
        assert_eq!(reason(|bytes| bytes[6] = 0x20), "IP fragment");
        assert_eq!(reason(|bytes| bytes[7] = 1), "IP fragment");
        assert_eq!(reason(|bytes| bytes[3] = 31), "malformed IP header");
        assert_eq!(reason(|bytes| bytes[25] = 99), "malformed UDP header");
        assert_eq!(reason(|bytes| bytes[23] = 0), "port 0");
        assert_eq!(
            reason(|bytes| bytes[9] = 47),
            "protocol other than TCP, UDP and ICMP"
        );
    }

    proptest! {
        #[test]
        fn random_bytes_are_parsed_or_dropped(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let length = bytes.len();
            if let Ok(packet) = Packet::parse(bytes.into()) {
                prop_assert!(packet.bytes.len() == length);
            }
        }
    }
}
