//! A flow of a peer's into the guest, which sees it come from the address that stands for the peer
//! here. So what listens on the guest's loopback alone is out of reach.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::flow::{Flow, FlowKey, Outcome, Totals, until_revoked};
use super::packet::Packet;
use super::relay::{End, Relay};
use super::tcp::{self, CONNECT_PATIENCE};
use super::terminal::Terminal;
use super::to_peer::datagrams;
use crate::peer::PeerStream;
use crate::{BoxStream, Decision, Event, PeerAnswer, PeerName, Protocol};

/// A connection that a peer asks for. Who it is, and that it is a member of the network, has been
/// verified.
pub struct Incoming {
    /// The peer.
    pub peer: PeerName,
    /// A network that both are in.
    pub network: Arc<str>,
    /// What is to be carried: TCP or UDP.
    pub protocol: Protocol,
    /// The guest's port; never 0.
    pub port: u16,
    /// The connection to the peer's gateway, which awaits a [`PeerAnswer`].
    pub stream: BoxStream,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("peer", &self.peer)
            .field("network", &self.network)
            .field("protocol", &self.protocol)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Where connections of peers go into a gateway.
#[derive(Clone, Debug)]
pub struct PeerDoor(mpsc::Sender<Incoming>);

impl PeerDoor {
    pub(crate) fn new(queue: usize) -> (Self, mpsc::Receiver<Incoming>) {
        let (sender, receiver) = mpsc::channel(queue);
        (Self(sender), receiver)
    }

    /// Hands a connection to the gateway. One that has ended drops it, which refuses it.
    pub async fn enter(&self, incoming: Incoming) {
        let _ended = self.0.send(incoming).await;
    }
}

/// Carries a flow of a peer's until it has ended.
pub(crate) async fn serve(flow: Flow, mut stream: BoxStream, mut packets: mpsc::Receiver<Packet>) {
    let began = Instant::now();
    let decision = flow.judge();
    record(&flow, &decision);
    if let Decision::Denied(_) = decision {
        // A peer that is gone need not be told.
        let _gone = PeerAnswer::Denied.send(&mut stream).await;
        return;
    }
    let mut totals = Totals::default();
    let outcome = match flow.key.protocol {
        Protocol::Udp => match PeerAnswer::Opened.send(&mut stream).await {
            Ok(()) => {
                let exchange = datagrams(&flow, stream, &mut packets, &mut totals);
                until_revoked(&flow, exchange).await
            }
            Err(error) => Outcome::Ended(error.to_string()),
        },
        Protocol::Tcp | Protocol::Icmp => {
            connection(&flow, stream, &mut packets, &mut totals).await
        }
    };
    flow.record_end(began, totals, &outcome);
}

fn record(flow: &Flow, decision: &Decision) {
    let FlowKey {
        protocol,
        source,
        destination,
    } = flow.key;
    flow.context.log.record(Event::Incoming {
        connection: flow.number,
        protocol,
        peer: flow.far.peer_name().unwrap_or_default(),
        source: destination,
        destination: source,
        verdict: decision.verdict().clone(),
    });
}

/// Connects to the guest, and carries what comes of it.
async fn connection(
    flow: &Flow,
    mut stream: BoxStream,
    packets: &mut mpsc::Receiver<Packet>,
    totals: &mut Totals,
) -> Outcome {
    let context = &flow.context;
    let terminal = Terminal::connecting(
        flow.key.destination,
        flow.key.source,
        context.outgoing.link(),
        usize::from(context.link.mtu),
        context.seed(),
        context.buffers.take(),
    );
    let mut relay = Relay::new(terminal, packets, &context.outgoing);
    let (answer, failure) = match timeout(CONNECT_PATIENCE, relay.connected()).await {
        Ok(Ok(())) => (PeerAnswer::Opened, None),
        Ok(Err(End::ResetByGuest)) => (PeerAnswer::Refused, Some("refused by the guest")),
        Ok(Err(end)) => return tcp::describe(&end),
        Err(_) => (PeerAnswer::Silent, Some("the guest does not answer")),
    };
    let told = answer.send(&mut stream).await;
    if let Some(failure) = failure {
        relay.reset().await;
        return Outcome::Ended(failure.to_owned());
    }
    if let Err(error) = told {
        relay.reset().await;
        return Outcome::Ended(error.to_string());
    }
    let end = tcp::carry(flow, &mut relay, &mut PeerStream::new(stream), None).await;
    totals.sent_bytes = relay.sent_bytes;
    totals.received_bytes = relay.received_bytes;
    tcp::describe(&end)
}
