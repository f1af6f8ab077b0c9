//! One flow of the guest's: judged, logged, and carried until it ends. Each is a task.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::context::Context;
use super::outgoing::{Outgoing, Unreachable};
use super::packet::Packet;
use super::{dns_service, echo, tcp, to_peer, udp};
use crate::peer::Peer;
use crate::{AwaitedCause, Decision, Destination, Event, Name, Protocol, Verdict};

/// How long after its last packet a flow that is refused is remembered as such.
const REFUSAL_MEMORY: Duration = Duration::from_secs(30);

/// What a flow is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) protocol: Protocol,
    /// The guest's end, whoever opened the flow; for pings, the port is their identifier.
    pub(crate) source: SocketAddr,
    /// The other end.
    pub(crate) destination: SocketAddr,
}

/// Who is at the other end of a flow.
#[derive(Clone, Debug)]
pub(crate) enum Far {
    /// Somebody whom the host reaches.
    Host,
    /// A peer, to which the guest has opened it.
    To(Peer),
    /// A peer, which has opened it.
    From(Peer),
}

impl Far {
    /// Returns the name of the peer, for the log.
    pub(crate) fn peer_name(&self) -> Option<String> {
        match self {
            Self::Host => None,
            Self::To(peer) | Self::From(peer) => Some(peer.name.as_str().to_owned()),
        }
    }
}

/// A flow under way.
pub(crate) struct Flow {
    /// Its number in the log.
    pub(crate) number: u64,
    pub(crate) key: FlowKey,
    /// What the guest knew the destination by when it opened the flow, or a peer's names.
    pub(crate) names: Vec<Name>,
    pub(crate) far: Far,
    /// The command that opened it, which is being asked for.
    pub(crate) cause: AwaitedCause,
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

    /// Decides whether the flow may be.
    pub(crate) fn judge(&self) -> Decision {
        let FlowKey {
            protocol,
            source,
            destination,
        } = self.key;
        let verdict = match &self.far {
            Far::Host => return self.context.judge(protocol, destination, &self.names),
            Far::To(peer) => {
                let to = Destination {
                    protocol,
                    address: destination,
                    names: &self.names,
                };
                self.context.policy().to_peer(&to, &peer.network)
            }
            Far::From(peer) => {
                let policy = self.context.policy();
                policy.from_peer(&self.names, protocol, source.port(), &peer.network)
            }
        };
        if verdict.is_allowed {
            Decision::Allowed(verdict)
        } else {
            Decision::Denied(verdict)
        }
    }

    /// Decides whether the flow may go on after it has shown `name`, or none.
    pub(crate) fn judge_shown(&self, name: Option<&Name>) -> Verdict {
        let to = Destination {
            protocol: self.key.protocol,
            address: self.key.destination,
            names: &self.names,
        };
        self.context.judge_shown(&to, name)
    }

    /// Waits until a change of the policy denies the flow, or the name that it has shown.
    pub(crate) async fn revoked(&self, shown: Option<&Name>) {
        let mut changes = self.context.policy_changes();
        loop {
            // Judged before the first change, too: one may have come while the host connected.
            let is_denied = match self.judge() {
                Decision::Allowed(_) => false,
                Decision::AllowedByName(_) => {
                    shown.is_some_and(|name| !self.judge_shown(Some(name)).is_allowed)
                }
                Decision::Denied(_) => true,
            };
            if is_denied {
                return;
            }
            if changes.changed().await.is_err() {
                // Whoever could change the policy is gone.
                return std::future::pending().await;
            }
        }
    }

    /// Records how the flow ended.
    pub(crate) fn record_end(&self, began: Instant, totals: Totals, outcome: &Outcome) {
        self.context.log.record(Event::Closed {
            connection: self.number,
            sent_bytes: totals.sent_bytes,
            received_bytes: totals.received_bytes,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            reason: outcome.reason().to_owned(),
        });
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
    let decision = flow.judge();
    let event = Event::Connection {
        connection: flow.number,
        protocol,
        source,
        destination,
        name: flow.names.first().map(|name| name.as_str().to_owned()),
        peer: flow.far.peer_name(),
        verdict: decision.verdict().clone(),
    };
    flow.context.log.record_caused(event, flow.cause.clone());
    if let Decision::Denied(_) = decision {
        flow.cause.held().await;
        return refuse(&flow, &mut packets, Unreachable::Prohibited).await;
    }
    let mut totals = Totals::default();
    let outcome = match protocol {
        _ if let Far::To(peer) = &flow.far => {
            to_peer::carry(&flow, peer, &mut packets, &mut totals).await
        }
        Protocol::Tcp if flow.context.is_gateway(destination.ip()) => {
            dns_service::connection(&flow, &mut packets, &mut totals).await
        }
        Protocol::Tcp => tcp::connection(&flow, &decision, &mut packets, &mut totals).await,
        Protocol::Udp => {
            let exchange = udp::exchange(&flow, &mut packets, &mut totals);
            until_revoked(&flow, exchange).await
        }
        Protocol::Icmp => {
            let exchange = echo::exchange(&flow, &mut packets, &mut totals);
            until_revoked(&flow, exchange).await
        }
    };
    flow.record_end(began, totals, &outcome);
    if let Outcome::Unreachable(_) = outcome {
        refuse(&flow, &mut packets, Unreachable::Host).await;
    }
}

/// Carries an exchange of datagrams until it ends or a change of the policy denies it.
pub(crate) async fn until_revoked(flow: &Flow, exchange: impl Future<Output = Outcome>) -> Outcome {
    tokio::select! {
        outcome = exchange => outcome,
        () = flow.revoked(None) => Outcome::Ended(REVOKED.to_owned()),
    }
}

/// What the log says of a flow that a change of the policy has ended.
pub(crate) const REVOKED: &str = "denied by a change of the policy";

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
