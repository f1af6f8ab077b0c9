//! What the gateway sends to the guest: packets, each made in the buffer that goes on the wire.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4DstUnreachable,
    Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpAddress,
    IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket, TcpRepr,
    UdpPacket, UdpRepr,
};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::packet::Packet;
use crate::frame::{ETHERNET_BYTES, PREFIX_BYTES};

/// Hops that a packet may take; it takes one.
const HOP_LIMIT: u8 = 64;

/// Bytes of a packet that an ICMP error gives back, at most; both standards ask for as much as
/// fits, and receivers need the headers (RFC 1122 §3.2.2, RFC 4443 §2.4).
const QUOTED_BYTES: usize = 512;

/// Bytes of an echo message before its data (RFC 792, RFC 4443 §4.1).
const ECHO_HEADER_BYTES: usize = 8;

/// Both ends of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) gateway: EthernetAddress,
    pub(crate) guest: EthernetAddress,
}

/// A frame as it goes on the wire: its length, the Ethernet header, and room for an IP packet.
pub(crate) fn frame_of(link: Link, packet_bytes: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = vec![0; PREFIX_BYTES + ETHERNET_BYTES + packet_bytes];
    let length =
        u32::try_from(ETHERNET_BYTES + packet_bytes).expect("an IP packet is shorter than 64 KiB");
    let (prefix, ethernet) = frame.split_at_mut(PREFIX_BYTES);
    prefix.copy_from_slice(&length.to_be_bytes());
    fill(&mut ethernet[ETHERNET_BYTES..]);
    let ethertype = match ethernet.get(ETHERNET_BYTES).map(|first| first >> 4) {
        Some(6) => EthernetProtocol::Ipv6,
        _ => EthernetProtocol::Ipv4,
    };
    let header = EthernetRepr {
        src_addr: link.gateway,
        dst_addr: link.guest,
        ethertype,
    };
    header.emit(&mut EthernetFrame::new_unchecked(ethernet));
    frame
}

/// Where frames to the guest go, in order.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    link: Link,
    frames: mpsc::Sender<Vec<u8>>,
}

impl Outgoing {
    pub(crate) fn new(link: Link, frames: mpsc::Sender<Vec<u8>>) -> Self {
        Self { link, frames }
    }

    pub(crate) fn link(&self) -> Link {
        self.link
    }

    /// Returns the queue itself, for whoever polls it.
    pub(crate) fn queue(&self) -> PollSender<Vec<u8>> {
        PollSender::new(self.frames.clone())
    }

    /// Sends a frame if there is room for it; as on any link, it is lost otherwise.
    pub(crate) fn offer(&self, frame: Vec<u8>) {
        let _lost = self.frames.try_send(frame);
    }

    /// Returns the frame of a UDP datagram to the guest.
    pub(crate) fn datagram(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let header = UdpRepr {
            src_port: from.port(),
            dst_port: to.port(),
        };
        let (source, destination) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
        let ip = IpRepr::new(
            source,
            destination,
            IpProtocol::Udp,
            header.header_len() + payload.len(),
            HOP_LIMIT,
        );
        let checksums = ChecksumCapabilities::default();
        frame_of(self.link, ip.buffer_len(), |packet| {
            ip.emit(&mut *packet, &checksums);
            header.emit(
                &mut UdpPacket::new_unchecked(&mut packet[ip.header_len()..]),
                &source,
                &destination,
                payload.len(),
                |buffer| buffer.copy_from_slice(payload),
                &checksums,
            );
        })
    }

    /// Returns the frame that answers a ping with this identifier and sequence number.
    pub(crate) fn echo_reply(
        &self,
        from: IpAddress,
        to: IpAddress,
        (ident, seq_no): (u16, u16),
        data: &[u8],
    ) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let (protocol, bytes) = match from {
            IpAddress::Ipv4(_) => (IpProtocol::Icmp, ECHO_HEADER_BYTES + data.len()),
            IpAddress::Ipv6(_) => (IpProtocol::Icmpv6, ECHO_HEADER_BYTES + data.len()),
        };
        let ip = IpRepr::new(from, to, protocol, bytes, HOP_LIMIT);
        frame_of(self.link, ip.buffer_len(), |packet| {
            ip.emit(&mut *packet, &checksums);
            let body = &mut packet[ip.header_len()..];
            match (from, to) {
                (IpAddress::Ipv6(from), IpAddress::Ipv6(to)) => Icmpv6Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                }
                .emit(
                    &from,
                    &to,
                    &mut Icmpv6Packet::new_unchecked(body),
                    &checksums,
                ),
                _ => Icmpv4Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                }
                .emit(&mut Icmpv4Packet::new_unchecked(body), &checksums),
            }
        })
    }

    /// Returns the frame that refuses a connection, or says that there is none: a reset (RFC 9293
    /// §3.5.2). A segment that is itself a reset gets no answer.
    pub(crate) fn reset(&self, refused: &Packet) -> Option<Vec<u8>> {
        let (destination, source) = (
            IpAddress::from(refused.source.ip()),
            IpAddress::from(refused.destination.ip()),
        );
        let header_bytes = match destination {
            IpAddress::Ipv4(_) => Ipv4Packet::new_checked(&refused.bytes[..])
                .map(|packet| usize::from(packet.header_len())),
            IpAddress::Ipv6(_) => {
                Ipv6Packet::new_checked(&refused.bytes[..]).map(|packet| packet.header_len())
            }
        };
        let segment = refused.bytes.get(header_bytes.ok()?..)?;
        let segment = TcpPacket::new_checked(segment).ok()?;
        if segment.rst() {
            return None;
        }
        let (control, sequence, acknowledged) = if segment.ack() {
            (TcpControl::Rst, segment.ack_number(), None)
        } else {
            let next = segment.seq_number() + segment.segment_len();
            (TcpControl::Rst, smoltcp::wire::TcpSeqNumber(0), Some(next))
        };
        let reset = TcpRepr {
            src_port: refused.destination.port(),
            dst_port: refused.source.port(),
            control,
            seq_number: sequence,
            ack_number: acknowledged,
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let ip = IpRepr::new(
            source,
            destination,
            IpProtocol::Tcp,
            reset.buffer_len(),
            HOP_LIMIT,
        );
        let checksums = ChecksumCapabilities::default();
        Some(frame_of(self.link, ip.buffer_len(), |packet| {
            ip.emit(&mut *packet, &checksums);
            reset.emit(
                &mut TcpPacket::new_unchecked(&mut packet[ip.header_len()..]),
                &source,
                &destination,
                &checksums,
            );
        }))
    }

    /// Returns the frame that says that `refused` does not get where it should: an ICMP message
    /// "destination unreachable" (RFC 792, RFC 4443 §3.1).
    pub(crate) fn unreachable(&self, refused: &Packet, why: Unreachable) -> Option<Vec<u8>> {
        let bytes = &refused.bytes[..];
        match refused.source.ip() {
            IpAddr::V4(_) => self.unreachable_ipv4(bytes, why),
            IpAddr::V6(_) => self.unreachable_ipv6(bytes, why),
        }
    }

    fn unreachable_ipv4(&self, refused: &[u8], why: Unreachable) -> Option<Vec<u8>> {
        let checksums = ChecksumCapabilities::default();
        let packet = Ipv4Packet::new_checked(refused).ok()?;
        let quoted = Ipv4Repr::parse(&packet, &ChecksumCapabilities::ignored()).ok()?;
        let message = Icmpv4Repr::DstUnreachable {
            reason: match why {
                Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
                Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
                Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
            },
            header: quoted,
            data: quote(packet.payload()),
        };
        let ip = Ipv4Repr {
            src_addr: quoted.dst_addr,
            dst_addr: quoted.src_addr,
            next_header: IpProtocol::Icmp,
            payload_len: message.buffer_len(),
            hop_limit: HOP_LIMIT,
        };
        let bytes = ip.buffer_len() + message.buffer_len();
        Some(frame_of(self.link, bytes, |packet| {
            ip.emit(&mut Ipv4Packet::new_unchecked(&mut *packet), &checksums);
            let body = &mut packet[ip.buffer_len()..];
            message.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums);
        }))
    }

    fn unreachable_ipv6(&self, refused: &[u8], why: Unreachable) -> Option<Vec<u8>> {
        let checksums = ChecksumCapabilities::default();
        let packet = Ipv6Packet::new_checked(refused).ok()?;
        let quoted = Ipv6Repr::parse(&packet).ok()?;
        let message = Icmpv6Repr::DstUnreachable {
            reason: match why {
                Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
                Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
                Unreachable::Host => Icmpv6DstUnreachable::AddrUnreachable,
            },
            header: quoted,
            data: quote(packet.payload()),
        };
        let ip = Ipv6Repr {
            src_addr: quoted.dst_addr,
            dst_addr: quoted.src_addr,
            next_header: IpProtocol::Icmpv6,
            payload_len: message.buffer_len(),
            hop_limit: HOP_LIMIT,
        };
        let bytes = ip.buffer_len() + message.buffer_len();
        Some(frame_of(self.link, bytes, |packet| {
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut *packet));
            message.emit(
                &ip.src_addr,
                &ip.dst_addr,
                &mut Icmpv6Packet::new_unchecked(&mut packet[ip.buffer_len()..]),
                &checksums,
            );
        }))
    }
}

/// Why a packet does not get where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// The policy denies it ("communication administratively prohibited").
    Prohibited,
    /// Nobody listens there.
    Port,
    /// The host cannot reach it.
    Host,
}

/// Returns as much of a packet's payload as an error gives back.
fn quote(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(QUOTED_BYTES)]
}
