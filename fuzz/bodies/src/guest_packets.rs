//! A guest that knows how packets are made, and sends what a stack would not.
//!
//! The input is a list of steps, each a kind, a length in two bytes and so many bytes. Addresses and
//! checksums are right unless the step is about them, so that what is behind them is reached; and
//! one TCP connection to the gateway's DNS is kept, whose numbers are right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet, Icmpv6Packet, IpAddress,
    IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpPacket, UdpPacket,
};
use smolvm_network::Mode;

use crate::gateway::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, HOST, Link};
use crate::{runtime, seeds};

/// Port of the guest's one connection.
const PORT: u16 = 40_000;

/// Port of the gateway's DNS.
const DNS_PORT: u16 = 53;

/// Bytes of headers without options (RFC 9293 §3.1; RFC 768).
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;

/// Kinds of steps. Other numbers are these, counted on.
const FRAME: u8 = 0;
const PACKET: u8 = 1;
const DATAGRAM: u8 = 2;
const SEGMENT: u8 = 3;
const WAIT: u8 = 4;
const KINDS: u8 = 5;

/// Flags of TCP (RFC 9293 §3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Takes the steps.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    runtime::without_sockets(async {
        let mut guest = Guest {
            link: Link::new(Mode::Restricted),
            sequence: 1000,
            acknowledged: 0,
        };
        let mut rest = input;
        while let Some((kind, bytes)) = next_step(&mut rest) {
            guest.step(kind, bytes).await;
        }
        guest.link.end().await;
    });
}

fn next_step<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[kind, high, low], after) = rest.split_first_chunk::<3>()?;
    let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
    let (bytes, after) = after.split_at(length);
    *rest = after;
    Some((kind % KINDS, bytes))
}

struct Guest {
    link: Link,
    /// The next byte of the connection that is sent.
    sequence: u32,
    /// The next byte of the connection that is awaited.
    acknowledged: u32,
}

impl Guest {
    async fn step(&mut self, kind: u8, bytes: &[u8]) {
        let mut time = Duration::from_millis(1);
        match kind {
            FRAME => self.link.send_frame(bytes).await,
            PACKET => self.send(packet(bytes)).await,
            DATAGRAM => self.send(datagram(bytes)).await,
            SEGMENT => {
                let segment = self.segment(bytes);
                self.send(segment).await;
            }
            _ => time = Duration::from_millis(100) * bytes.first().copied().unwrap_or(1).into(),
        }
        for frame in self.link.frames_after(time).await {
            self.see(&frame);
        }
    }

    async fn send(&mut self, packet: Option<Vec<u8>>) {
        if let Some(packet) = packet {
            self.link.send_frame(&frame(&packet)).await;
        }
    }

    /// Returns the next segment of the connection: its flags are the first byte, its data the rest.
    fn segment(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (&flags, data) = bytes.split_first()?;
        let mut segment = vec![0; TCP_HEADER_BYTES];
        segment.extend(data);
        segment[13] = flags;
        let mut header = TcpPacket::new_unchecked(&mut segment);
        header.set_src_port(PORT);
        header.set_dst_port(DNS_PORT);
        header.set_seq_number(smoltcp::wire::TcpSeqNumber(self.sequence.cast_signed()));
        header.set_ack_number(smoltcp::wire::TcpSeqNumber(self.acknowledged.cast_signed()));
        header.set_header_len(u8::try_from(TCP_HEADER_BYTES).expect("short"));
        header.set_window_len(u16::MAX);
        let length = u32::try_from(data.len()).expect("short");
        let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        self.sequence = self.sequence.wrapping_add(length + counted);
        ipv4(IpProtocol::Tcp, GATEWAY[0], segment)
    }

    /// Takes note of a segment of the connection.
    fn see(&mut self, frame: &[u8]) {
        let frame = EthernetFrame::new_checked(frame).expect("checked");
        if frame.ethertype() != EthernetProtocol::Ipv4 {
            return;
        }
        let packet = Ipv4Packet::new_checked(frame.payload()).expect("checked");
        if packet.next_header() != IpProtocol::Tcp {
            return;
        }
        let segment = TcpPacket::new_checked(packet.payload()).expect("checked");
        if segment.dst_port() == PORT && !segment.rst() {
            let next = segment.seq_number() + segment.segment_len();
            self.acknowledged = next.0.cast_unsigned();
        }
    }
}

/// Returns a packet: its protocol is the first byte, where it goes the second, the rest what is in
/// it.
fn packet(bytes: &[u8]) -> Option<Vec<u8>> {
    let (&[protocol, to], content) = bytes.split_first_chunk::<2>()?;
    let protocol = IpProtocol::from(protocol);
    let content = content.to_vec();
    match to % 10 {
        0 => ipv4(protocol, GATEWAY[0], content),
        1 => ipv4(protocol, HOST, content),
        2 => ipv4(protocol, "192.0.2.1", content),
        3 => ipv4(protocol, "127.0.0.1", content),
        4 => ipv4(protocol, "255.255.255.255", content),
        5 => ipv6(protocol, GATEWAY[1], content),
        6 => ipv6(protocol, "2001:db8::1", content),
        7 => ipv6(protocol, "::1", content),
        8 => ipv6(protocol, "ff02::1", content),
        _ => ipv6(protocol, "fe80::1", content),
    }
}

/// Returns a DNS query to the gateway: the bytes are the message.
fn datagram(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut datagram = vec![0; UDP_HEADER_BYTES];
    datagram.extend(bytes);
    let length = u16::try_from(datagram.len()).ok()?;
    let mut header = UdpPacket::new_unchecked(&mut datagram);
    header.set_src_port(PORT);
    header.set_dst_port(DNS_PORT);
    header.set_len(length);
    ipv4(IpProtocol::Udp, GATEWAY[0], datagram)
}

fn ipv4(protocol: IpProtocol, to: &str, mut content: Vec<u8>) -> Option<Vec<u8>> {
    let from: Ipv4Addr = GUEST[0].parse().ok()?;
    let to: Ipv4Addr = to.parse().ok()?;
    fill_checksum(protocol, &mut content, from.into(), to.into());
    let header = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: protocol,
        payload_len: content.len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; header.buffer_len()];
    bytes.extend(content);
    u16::try_from(bytes.len()).ok()?;
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &checksums);
    Some(bytes)
}

fn ipv6(protocol: IpProtocol, to: &str, mut content: Vec<u8>) -> Option<Vec<u8>> {
    let from: Ipv6Addr = GUEST[1].parse().ok()?;
    let to: Ipv6Addr = to.parse().ok()?;
    fill_checksum(protocol, &mut content, from.into(), to.into());
    let header = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: protocol,
        payload_len: content.len(),
        hop_limit: 255,
    };
    let mut bytes = vec![0; header.buffer_len()];
    bytes.extend(content);
    header.emit(&mut Ipv6Packet::new_unchecked(&mut bytes));
    Some(bytes)
}

/// Puts the checksum in where there is room for one.
fn fill_checksum(protocol: IpProtocol, content: &mut [u8], from: IpAddr, to: IpAddr) {
    let (from, to) = (IpAddress::from(from), IpAddress::from(to));
    match (protocol, from, to) {
        (IpProtocol::Tcp, ..) => {
            if let Ok(mut segment) = TcpPacket::new_checked(content) {
                segment.fill_checksum(&from, &to);
            }
        }
        (IpProtocol::Udp, ..) => {
            if let Ok(mut datagram) = UdpPacket::new_checked(content) {
                datagram.fill_checksum(&from, &to);
            }
        }
        (IpProtocol::Icmp, ..) => {
            if let Ok(mut message) = Icmpv4Packet::new_checked(content) {
                message.fill_checksum();
            }
        }
        (IpProtocol::Icmpv6, IpAddress::Ipv6(from), IpAddress::Ipv6(to)) => {
            if let Ok(mut message) = Icmpv6Packet::new_checked(content) {
                message.fill_checksum(&from, &to);
            }
        }
        _ => {}
    }
}

/// Returns a packet in its frame.
fn frame(packet: &[u8]) -> Vec<u8> {
    let is_ipv6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let header = EthernetRepr {
        src_addr: GUEST_MAC,
        dst_addr: GATEWAY_MAC,
        ethertype: if is_ipv6 {
            EthernetProtocol::Ipv6
        } else {
            EthernetProtocol::Ipv4
        },
    };
    let mut frame = vec![0; header.buffer_len()];
    frame.extend(packet);
    header.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    frame
}

/// Returns frames that the gateway answers, each in its way.
pub(crate) fn seed_frames() -> Vec<Vec<u8>> {
    let query = seeds::dns_query("a.example.com", RecordType::A);
    let packets = [
        datagram(&query),
        packet(&[&[6, 2], &opening()[..]].concat()),
        packet(&[17, 6, 0x9c, 0x40, 0, 9, 0, 10, 0, 0, b'h', b'i']),
        packet(&[1, 0, 8, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g']),
        packet(&[58, 5, 128, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g']),
        packet(&[&[58, 8, 135, 0, 0, 0, 0, 0, 0, 0], &SOLICITED[..]].concat()),
    ];
    let mut frames: Vec<_> = packets
        .into_iter()
        .flatten()
        .map(|packet| frame(&packet))
        .collect();
    frames.push(arp_request());
    frames
}

/// The gateway's IPv6 address, as a neighbour solicitation asks for it (RFC 4861 §4.3).
const SOLICITED: [u8; 16] = [
    0xfd, 0x73, 0x6d, 0x6f, 0x6c, 0x76, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];

/// Returns a segment that opens a connection to port 443.
fn opening() -> [u8; TCP_HEADER_BYTES] {
    let mut segment = [0; TCP_HEADER_BYTES];
    let mut header = TcpPacket::new_unchecked(&mut segment[..]);
    header.set_src_port(PORT);
    header.set_dst_port(443);
    header.set_header_len(u8::try_from(TCP_HEADER_BYTES).expect("short"));
    header.set_syn(true);
    header.set_window_len(u16::MAX);
    segment
}

/// Returns the frame that asks who has the gateway's address (RFC 826).
fn arp_request() -> Vec<u8> {
    let mut frame = [[0xff; 6], GUEST_MAC.0].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC.0);
    frame.extend([172, 16, 0, 2, 0, 0, 0, 0, 0, 0, 172, 16, 0, 1]);
    frame
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let query = seeds::dns_query("a.example.com", RecordType::A);
    let length = u16::try_from(query.len()).expect("short").to_be_bytes();
    let asked = [&[ACK], &length[..], &query].concat();
    let connection = [
        (SEGMENT, &[SYN][..]),
        (SEGMENT, &[ACK]),
        (SEGMENT, &asked),
        (WAIT, &[20]),
        (SEGMENT, &[ACK | FIN]),
        (SEGMENT, &[ACK]),
    ];
    let opening = [&[6, 1], &opening()[..]].concat();
    let apart = [
        (DATAGRAM, &query[..]),
        (PACKET, &opening),
        (PACKET, &[17, 2, 0x9c, 0x40, 0, 9, 0, 10, 0, 0, b'h', b'i']),
        (
            PACKET,
            &[1, 0, 8, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g'],
        ),
        (
            PACKET,
            &[58, 6, 128, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g'],
        ),
        (FRAME, &arp_request()),
    ];
    vec![input(&connection), input(&apart)]
}

fn input(steps: &[(u8, &[u8])]) -> Vec<u8> {
    let mut input = Vec::new();
    for (kind, bytes) in steps {
        input.push(*kind);
        let length = u16::try_from(bytes.len()).expect("short");
        input.extend(length.to_be_bytes());
        input.extend(*bytes);
    }
    input
}
