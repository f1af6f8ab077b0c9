//! Pings of the guest's, sent on by a ping socket of the host's (icmp(7), `ping_group_range`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::flow::{Flow, Outcome, Totals};
use super::packet::{Content, Packet};

/// How long no ping may come before the socket is closed; `ping` sends one a second.
const IDLE: Duration = Duration::from_secs(60);

/// Longest ping that is sent on, in bytes.
const MAX_MESSAGE_BYTES: usize = 65_535;

/// A ping: what its answer repeats.
struct Ping<'a> {
    identifier: u16,
    sequence: u16,
    data: &'a [u8],
}

/// Returns the identifier of an echo request; `None` when `message` is something else.
pub(crate) fn identifier(message: &[u8], is_ipv4: bool) -> Option<u16> {
    // The addresses only matter to ICMPv6's checksum, which is not looked at here.
    request(message, is_ipv4).map(|ping| ping.identifier)
}

fn request(message: &[u8], is_ipv4: bool) -> Option<Ping<'_>> {
    let unchecked = ChecksumCapabilities::ignored();
    let (identifier, sequence, data) = if is_ipv4 {
        let packet = Icmpv4Packet::new_checked(message).ok()?;
        match Icmpv4Repr::parse(&packet, &unchecked).ok()? {
            Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            } => (ident, seq_no, data),
            _ => return None,
        }
    } else {
        let any = std::net::Ipv6Addr::UNSPECIFIED;
        let packet = Icmpv6Packet::new_checked(message).ok()?;
        match Icmpv6Repr::parse(&any, &any, &packet, &unchecked).ok()? {
            Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data,
            } => (ident, seq_no, data),
            _ => return None,
        }
    };
    Some(Ping {
        identifier,
        sequence,
        data,
    })
}

/// Carries pings there and answers back until none has come for a while.
pub(crate) async fn exchange(
    flow: &Flow,
    packets: &mut mpsc::Receiver<Packet>,
    totals: &mut Totals,
) -> Outcome {
    let socket = match open(flow.upstream()) {
        Ok(socket) => socket,
        Err(error) => {
            return Outcome::Unreachable(format!("the host cannot send pings: {error}"));
        }
    };
    let is_ipv4 = flow.key.destination.is_ipv4();
    let mut answer = Vec::new();
    loop {
        answer.clear();
        answer.reserve(MAX_MESSAGE_BYTES);
        let step = timeout(IDLE, async {
            tokio::select! {
                packet = packets.recv() => Ok(packet),
                received = socket.recv_buf(&mut answer) => Err(received),
            }
        });
        match step.await {
            Err(_) => return Outcome::Ended("idle".to_owned()),
            Ok(Ok(None)) => return Outcome::Ended("gateway ended".to_owned()),
            Ok(Ok(Some(packet))) => {
                let Content::Icmp(message) = &packet.content else {
                    continue;
                };
                // A host that cannot send it loses it; that is a ping's answer, too.
                let _lost = socket.send(message).await;
                totals.sent_bytes += u64::try_from(message.len()).unwrap_or(0);
            }
            Ok(Err(Ok(_))) => {
                totals.received_bytes += u64::try_from(answer.len()).unwrap_or(0);
                hand_back(flow, &mut answer, is_ipv4);
            }
            Ok(Err(Err(_))) => {}
        }
    }
}

/// Gives an answer the identifier that the guest chose (the host's kernel chose another) and
/// sends it to the guest.
fn hand_back(flow: &Flow, answer: &mut [u8], is_ipv4: bool) {
    // An answer is a request but for its type (RFC 792, RFC 4443 §4.2).
    let Some(kind) = answer.first_mut() else {
        return;
    };
    let (reply, echo) = if is_ipv4 { (0, 8) } else { (129, 128) };
    if *kind != reply {
        return;
    }
    *kind = echo;
    if let Some(ping) = request(answer, is_ipv4) {
        let frame = flow.outgoing().echo_reply(
            IpAddress::from(flow.key.destination.ip()),
            IpAddress::from(flow.key.source.ip()),
            (flow.key.source.port(), ping.sequence),
            ping.data,
        );
        flow.outgoing().offer(frame);
    }
}

fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match to {
        SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(to.ip(), 0).into())?;
    // A ping socket is a datagram socket, which is all that the type stands for.
    UdpSocket::from_std(socket.into())
}
