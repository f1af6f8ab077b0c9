//! DNS on the gateway's own addresses: by datagrams, and by connections (RFC 7766).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::context::Context;
use super::flow::{Flow, Outcome, Totals};
use super::packet::Packet;
use super::tcp;
use crate::{DnsTransport, Protocol};

/// How long a connection may be silent; clients that keep one open ask again soon (RFC 7766 §6.2.3
/// recommends seconds).
const IDLE: Duration = Duration::from_secs(10);

/// Longest query that is read, in bytes: a name of 255 and what goes with it are far below.
const MAX_QUERY_BYTES: u16 = 4096;

/// Bytes between the connection and its reader.
const PIPE_BYTES: usize = 8 * 1024;

/// Answers a query that came in a datagram.
pub(crate) async fn datagram(context: Arc<Context>, packet: Packet, query: bytes::Bytes) {
    let cause = context
        .causes
        .ask(Protocol::Udp, packet.source, packet.destination);
    let own = context.own_addresses();
    let answer = context
        .resolver
        .answer(&query, DnsTransport::Udp, &own, &cause);
    let (answer, ()) = tokio::join!(answer, cause.held());
    if let Some(answer) = answer {
        let outgoing = &context.outgoing;
        outgoing.offer(outgoing.datagram(packet.destination, packet.source, &answer));
    }
}

/// Answers the queries of a connection, one after the other.
pub(crate) async fn connection(
    flow: &Flow,
    packets: &mut mpsc::Receiver<Packet>,
    totals: &mut Totals,
) -> Outcome {
    let mut relay = tcp::relay(flow, packets);
    let (mut ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let (end, ()) = tokio::join!(relay.run(&mut ours), serve(flow, theirs));
    totals.sent_bytes = relay.sent_bytes;
    totals.received_bytes = relay.received_bytes;
    tcp::describe(&end)
}

async fn serve(flow: &Flow, mut stream: DuplexStream) {
    let context = &flow.context;
    // A client that goes, is silent for long or sends what is no query has its stream dropped.
    while let Ok(Some(query)) = timeout(IDLE, read_query(&mut stream)).await {
        let own = context.own_addresses();
        let answer = context
            .resolver
            .answer(&query, DnsTransport::Tcp, &own, &flow.cause)
            .await;
        let Some(answer) = answer else {
            return;
        };
        let Ok(length) = u16::try_from(answer.len()) else {
            return;
        };
        let message = [&length.to_be_bytes()[..], &answer].concat();
        if stream.write_all(&message).await.is_err() {
            return;
        }
    }
}

async fn read_query(stream: &mut DuplexStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    if length > MAX_QUERY_BYTES {
        return None;
    }
    let mut query = vec![0; usize::from(length)];
    stream.read_exact(&mut query).await.ok()?;
    Some(query)
}
