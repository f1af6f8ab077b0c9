//! A flow of the guest's to a peer: carried by the peer's gateway instead of a socket of the host's.
//!
//! As with servers, the peer comes first: until its guest has accepted a connection, this one's is
//! not answered.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::flow::{Flow, Outcome, Totals, until_revoked};
use super::packet::{Content, Packet};
use super::tcp;
use crate::frame::{FrameReader, PREFIX_BYTES, write_frames};
use crate::peer::{NotOpened, Peer, PeerStream};
use crate::throttle::Throttle;
use crate::{BoxStream, Protocol};

/// How long an exchange of datagrams may be silent before it ends (RFC 4787 §4.3, REQ-5: not less
/// than two minutes).
const IDLE: Duration = Duration::from_secs(120);

/// Datagrams that wait for a peer, at most. More are lost, as on any link.
const QUEUED_DATAGRAMS: usize = 64;

/// Carries the flow to `peer` until it ends.
pub(crate) async fn carry(
    flow: &Flow,
    peer: &Peer,
    packets: &mut mpsc::Receiver<Packet>,
    totals: &mut Totals,
) -> Outcome {
    let Some(peers) = &flow.context.peers else {
        return Outcome::Unreachable("no peers".to_owned());
    };
    let (protocol, port) = (flow.key.protocol, flow.key.destination.port());
    let stream = match peers.open(&peer.name, protocol, port).await {
        Ok(stream) => stream,
        Err(error @ NotOpened::Silent) => return Outcome::Unreachable(error.to_string()),
        Err(error) if protocol == Protocol::Tcp => {
            tcp::refuse(flow, packets).await;
            return Outcome::Ended(error.to_string());
        }
        Err(error) => return Outcome::Unreachable(error.to_string()),
    };
    if protocol == Protocol::Udp {
        let exchange = datagrams(flow, stream, packets, totals);
        return until_revoked(flow, exchange).await;
    }
    let mut relay = tcp::relay(flow, packets);
    relay.watch_for(flow.context.content.secrets.scan());
    // A stream that is dropped before its end is a reset to the peer.
    let end = tcp::carry(flow, &mut relay, &mut PeerStream::new(stream), None).await;
    totals.sent_bytes = relay.sent_bytes;
    totals.received_bytes = relay.received_bytes;
    tcp::describe(&end)
}

/// Carries datagrams between the guest and a peer's gateway, whoever of them began, until both
/// have been silent for long.
pub(crate) async fn datagrams(
    flow: &Flow,
    stream: BoxStream,
    packets: &mut mpsc::Receiver<Packet>,
    totals: &mut Totals,
) -> Outcome {
    let (reader, writer) = tokio::io::split(stream);
    let (queue, frames) = mpsc::channel(QUEUED_DATAGRAMS);
    let _writer = AbortOnDropHandle::new(tokio::spawn(async move {
        // That the peer is gone, reading says.
        let _gone = write_frames(writer, frames, &Throttle::new(None)).await;
    }));
    let mut reader = FrameReader::new(reader);
    loop {
        let step = timeout(IDLE, async {
            tokio::select! {
                packet = packets.recv() => Ok(packet),
                datagram = reader.next() => Err(datagram),
            }
        });
        match step.await {
            Err(_) => return Outcome::Ended("idle".to_owned()),
            Ok(Ok(None)) => return Outcome::Ended("gateway ended".to_owned()),
            Ok(Ok(Some(packet))) => {
                if let Content::Udp(payload) = &packet.content
                    && queue.try_send(framed(payload)).is_ok()
                {
                    totals.sent_bytes += u64::try_from(payload.len()).unwrap_or(0);
                }
            }
            Ok(Err(Ok(Some(payload)))) => {
                totals.received_bytes += u64::try_from(payload.len()).unwrap_or(0);
                let outgoing = flow.outgoing();
                let (from, to) = (flow.key.destination, flow.key.source);
                outgoing.offer(outgoing.datagram(from, to, &payload));
            }
            Ok(Err(Ok(None))) => return Outcome::Ended("closed".to_owned()),
            Ok(Err(Err(error))) => return Outcome::Ended(error.to_string()),
        }
    }
}

/// Returns a datagram as it goes on the wire between gateways.
fn framed(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a packet is shorter than 64 KiB");
    let mut frame = Vec::with_capacity(PREFIX_BYTES + payload.len());
    frame.extend(length.to_be_bytes());
    frame.extend(payload);
    frame
}
