//! UDP between the guest and one destination: a socket of the host's, connected there.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::flow::{Flow, Outcome, Totals};
use super::outgoing::{Outgoing, Unreachable};
use super::packet::{Content, Packet};

/// How long an exchange may be silent before its socket is closed (RFC 4787 §4.3, REQ-5: not less
/// than two minutes).
const IDLE: Duration = Duration::from_secs(120);

/// Longest UDP payload in an IPv4 packet, in bytes: 65,535 without both headers.
const MAX_PAYLOAD_BYTES: usize = 65_535 - 20 - 8;

/// Carries datagrams both ways until both sides have been silent for long.
pub(crate) async fn exchange(
    flow: &Flow,
    packets: &mut mpsc::Receiver<Packet>,
    totals: &mut Totals,
) -> Outcome {
    let socket = match connect(flow.upstream()).await {
        Ok(socket) => socket,
        Err(error) => return Outcome::Unreachable(error.to_string()),
    };
    let mut last = None;
    let mut buffer = Vec::with_capacity(2048);
    loop {
        buffer.clear();
        let step = timeout(IDLE, async {
            tokio::select! {
                packet = packets.recv() => Step::Guest(packet),
                received = receive(&socket, &mut buffer) => Step::Host(received),
            }
        });
        match step.await {
            Err(_) => return Outcome::Ended("idle".to_owned()),
            Ok(Step::Guest(None)) => return Outcome::Ended("gateway ended".to_owned()),
            Ok(Step::Guest(Some(packet))) => {
                if let Content::Udp(payload) = &packet.content
                    && socket.send(payload).await.is_ok()
                {
                    totals.sent_bytes += u64::try_from(payload.len()).unwrap_or(0);
                }
                last = Some(packet);
            }
            Ok(Step::Host(Ok(()))) => {
                totals.received_bytes += u64::try_from(buffer.len()).unwrap_or(0);
                let frame =
                    flow.outgoing()
                        .datagram(flow.key.destination, flow.key.source, &buffer);
                flow.outgoing().offer(frame);
            }
            // The kernel reports what an ICMP message told it (udp(7)).
            Ok(Step::Host(Err(error))) => {
                if let Some(packet) = &last {
                    let why = match error.kind() {
                        io::ErrorKind::ConnectionRefused => Unreachable::Port,
                        _ => Unreachable::Host,
                    };
                    answer(flow.outgoing(), packet, why);
                }
            }
        }
    }
}

enum Step {
    Guest(Option<Packet>),
    Host(io::Result<()>),
}

/// Receives one datagram into `buffer`, which grows only when there is one.
async fn receive(socket: &UdpSocket, buffer: &mut Vec<u8>) -> io::Result<()> {
    socket.readable().await?;
    buffer.reserve(MAX_PAYLOAD_BYTES);
    match socket.try_recv_buf(buffer) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            socket.recv_buf(buffer).await.map(|_| ())
        }
        Err(error) => Err(error),
    }
}

fn answer(outgoing: &Outgoing, packet: &Packet, why: Unreachable) {
    if let Some(frame) = outgoing.unreachable(packet, why) {
        outgoing.offer(frame);
    }
}

async fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket)
}
