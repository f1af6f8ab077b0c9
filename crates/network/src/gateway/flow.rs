//! One flow of the guest's: judged, logged, and carried until it ends. Each is a task.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::context::Context;
use super::outgoing::{Outgoing, Unreachable};
use super::packet::Packet;
use super::{dns_service, echo, tcp, udp};
use crate::{Decision, Event, Name, Protocol, Verdict};

/// How long after its last packet a flow that is refused is remembered as such.
const REFUSAL_MEMORY: Duration = Duration::from_secs(30);

/// What a flow is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) protocol: Protocol,
    /// The guest's end; for pings, the port is their identifier.
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// A flow under way.
pub(crate) struct Flow {
    /// Its number in the log.
    pub(crate) number: u64,
    pub(crate) key: FlowKey,
    pub(crate) context: Arc<Context>,
}

/// What a flow has carried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

impl Flow {
    pub(crate) fn outgoing(&self) -> &Outgoing {
        &self.context.outgoing
    }

    /// Returns where a socket of the host's has to connect to.
    pub(crate) fn upstream(&self) -> SocketAddr {
        let destination = self.key.destination;
        if self.context.link.host.contains(&destination.ip()) {
            // The name for the host stands for its loopback.
            let loopback = if destination.is_ipv4() {
                IpAddr::from(std::net::Ipv4Addr::LOCALHOST)
            } else {
                IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
            };
            return SocketAddr::new(loopback, destination.port());
        }
        destination
    }

    /// Decides whether the flow may go on after it has shown `name`, or none.
    pub(crate) fn judge_shown(&self, name: Option<&Name>) -> Verdict {
        let FlowKey {
            protocol,
            destination,
            ..
        } = self.key;
        self.context.judge_shown(protocol, destination, name)
    }

    /// Records the verdict on a name that the flow has shown.
    pub(crate) fn record_name(&self, shown_by: &str, name: Option<String>, verdict: Verdict) {
        self.context.log.record(Event::Name {
            connection: self.number,
            shown_by: shown_by.to_owned(),
            name,
            verdict,
        });
    }
}

/// Carries a flow until it has ended.
pub(crate) async fn serve(flow: Flow, mut packets: mpsc::Receiver<Packet>) {
    let began = Instant::now();
    let FlowKey {
        protocol,
        source,
        destination,
    } = flow.key;
    let (decision, name) = flow.context.judge(protocol, destination);
    flow.context.log.record(Event::Connection {
        connection: flow.number,
        protocol,
        source,
        destination,
        name,
        verdict: decision.verdict().clone(),
    });
    if let Decision::Denied(_) = decision {
        return refuse(&flow, &mut packets, Unreachable::Prohibited).await;
    }
    let mut totals = Totals::default();
    let outcome = match protocol {
        Protocol::Tcp if flow.context.is_gateway(destination.ip()) => {
            dns_service::connection(&flow, &mut packets, &mut totals).await
        }
        Protocol::Tcp => tcp::connection(&flow, &decision, &mut packets, &mut totals).await,
        Protocol::Udp => udp::exchange(&flow, &mut packets, &mut totals).await,
        Protocol::Icmp => echo::exchange(&flow, &mut packets, &mut totals).await,
    };
    flow.context.log.record(Event::Closed {
        connection: flow.number,
        sent_bytes: totals.sent_bytes,
        received_bytes: totals.received_bytes,
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        reason: outcome.reason().to_owned(),
    });
    if let Outcome::Unreachable(_) = outcome {
        refuse(&flow, &mut packets, Unreachable::Host).await;
    }
}

/// How a flow ended.
pub(crate) enum Outcome {
    /// It was carried until it ended for this reason.
    Ended(String),
    /// The host could not reach its destination, for this reason.
    Unreachable(String),
}

impl Outcome {
    fn reason(&self) -> &str {
        match self {
            Self::Ended(reason) | Self::Unreachable(reason) => reason,
        }
    }
}

/// Tells the guest that it gets nowhere. What it sends again within a while is the same flow, so
/// that the log tells it once.
async fn refuse(flow: &Flow, packets: &mut mpsc::Receiver<Packet>, why: Unreachable) {
    while let Ok(Some(packet)) = timeout(REFUSAL_MEMORY, packets.recv()).await {
        let answer = match (flow.key.protocol, why) {
            (Protocol::Tcp, Unreachable::Prohibited) => flow.outgoing().reset(&packet),
            _ => flow.outgoing().unreachable(&packet, why),
        };
        if let Some(answer) = answer {
            flow.outgoing().offer(answer);
        }
        if flow.key.protocol == Protocol::Tcp {
            // A client that tries again is a new connection.
            return;
        }
    }
}
