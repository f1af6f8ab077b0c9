//! What all flows of one gateway share.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::watch;

use super::buffers::Buffers;
use super::outgoing::Outgoing;
use super::{ContentConfig, GatewayConfig, Limits, LinkConfig};
use crate::cause::Causes;
use crate::peer::{Peer, Peers};
use crate::throttle::Throttle;
use crate::{
    Decider, Decision, Destination, EventSink, HOST_NAME, Name, Pins, PolicyHandle, Protocol,
    Resolver, ResolverConfig, Verdict,
};

/// How long the list of the host's addresses is believed.
const OWN_ADDRESSES_AGE: Duration = Duration::from_secs(10);

/// What the gateway itself offers: DNS (RFC 1035 §4.2).
pub(crate) const DNS_PORT: u16 = 53;

/// What all flows share.
pub(crate) struct Context {
    pub(crate) outgoing: Outgoing,
    pub(crate) link: LinkConfig,
    pub(crate) resolver: Resolver,
    pub(crate) log: EventSink,
    pub(crate) causes: Causes,
    pub(crate) limits: Limits,
    pub(crate) content: ContentConfig,
    /// Bytes from the guest.
    pub(crate) upload: Throttle,
    /// DNS queries of the guest.
    pub(crate) queries: Throttle,
    /// Absent where the sandbox is in no private network.
    pub(crate) peers: Option<Arc<Peers>>,
    /// Buffers of TCP connections.
    pub(crate) buffers: Buffers,
    policy: PolicyHandle,
    /// What the guest knows addresses by.
    pins: Pins,
    /// The name that stands for the host's loopback.
    host_name: Name,
    /// The number of the next flow.
    numbers: AtomicU64,
    /// The host's own addresses; only ever locked while they are copied.
    own: Mutex<OwnAddresses>,
}

impl Context {
    pub(crate) fn new(outgoing: Outgoing, config: GatewayConfig) -> Self {
        let pins = Pins::default();
        let resolver = ResolverConfig {
            upstream: config.upstream,
            host: config.link.host.clone(),
            gateway: config.link.gateway.iter().map(IpNet::addr).collect(),
            guest: config.link.guest.clone(),
            has_ipv6: has_ipv6(),
        };
        let log = config.log;
        let peers = config.peers.map(|config| Arc::new(Peers::new(config)));
        let resolver = Resolver::new(resolver, config.policy.clone(), pins.clone(), log.clone());
        Self {
            outgoing,
            link: config.link,
            content: config.content,
            resolver: resolver.with_peers(peers.clone()),
            peers,
            causes: Causes::new(config.causes, log.clone()),
            log,
            upload: Throttle::new(config.limits.upload_bytes_per_second),
            queries: Throttle::new(Some(config.limits.dns_queries_per_second.into())),
            limits: config.limits,
            buffers: Buffers::default(),
            policy: config.policy,
            pins,
            host_name: Name::from_ascii(HOST_NAME).expect("a constant that is a name"),
            numbers: AtomicU64::new(0),
            own: Mutex::new(OwnAddresses::read()),
        }
    }

    /// Returns the number of a new flow.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns a number that no guest can foresee, for TCP's sequence numbers (RFC 6528).
    pub(crate) fn seed(&self) -> u64 {
        use std::hash::{BuildHasher as _, RandomState};

        RandomState::new().hash_one(self.numbers.load(Ordering::Relaxed))
    }

    /// Whether `address` is the gateway's own.
    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        self.link.gateway.iter().any(|own| own.addr() == address)
    }

    /// Decides whether a flow may be, to a destination that the guest knows by `names`.
    pub(crate) fn judge(
        &self,
        protocol: Protocol,
        address: SocketAddr,
        names: &[Name],
    ) -> Decision {
        if !self.is_gateway(address.ip()) {
            let destination = Destination {
                protocol,
                address,
                names,
            };
            let own = self.own_addresses();
            return self.policy.current().connection(&destination, &own);
        }
        if address.port() == DNS_PORT && protocol == Protocol::Tcp {
            Decision::Allowed(Verdict::allowed("built-in: DNS of the gateway"))
        } else {
            Decision::Denied(Verdict::denied(
                "built-in: the gateway offers nothing but DNS",
            ))
        }
    }

    /// Returns the policy that is in force now.
    pub(crate) fn policy(&self) -> Arc<Decider> {
        self.policy.current()
    }

    /// Returns the peer that an address stands for.
    pub(crate) fn peer_at(&self, address: IpAddr) -> Option<Peer> {
        self.peers.as_ref()?.at(address)
    }

    /// Decides whether a flow that showed the name `shown`, or none, may go on.
    pub(crate) fn judge_shown(&self, to: &Destination<'_>, shown: Option<&Name>) -> Verdict {
        self.policy.current().shown(to, shown)
    }

    /// Returns what tells that the policy has changed.
    pub(crate) fn policy_changes(&self) -> watch::Receiver<Arc<Decider>> {
        self.policy.subscribe()
    }

    /// Returns the names that the guest may know an address by.
    pub(crate) fn names_of(&self, address: IpAddr) -> Vec<Name> {
        if self.link.host.contains(&address) {
            return vec![self.host_name.clone()];
        }
        self.pins.names_of(address, Instant::now())
    }

    /// Returns the addresses of the host's interfaces but the loopback's, which is known as such.
    pub(crate) fn own_addresses(&self) -> Arc<[IpAddr]> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.read.elapsed() > OWN_ADDRESSES_AGE {
            *own = OwnAddresses::read();
        }
        Arc::clone(&own.addresses)
    }
}

/// The host's addresses, as they were a moment ago.
struct OwnAddresses {
    addresses: Arc<[IpAddr]>,
    read: Instant,
}

impl OwnAddresses {
    fn read() -> Self {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
            tracing::warn!(%error, "the host's addresses are not known");
            Vec::new()
        });
        Self {
            addresses: interfaces
                .iter()
                .filter(|interface| !interface.is_loopback())
                .map(if_addrs::Interface::ip)
                .collect(),
            read: Instant::now(),
        }
    }
}

/// Whether the host has a route to IPv6 addresses that are not its own.
fn has_ipv6() -> bool {
    // Connecting a UDP socket looks for a route and sends nothing (udp(7)). The address is one of
    // documentation (RFC 3849), which any default route covers.
    let probe = || -> std::io::Result<()> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), DNS_PORT))
    };
    probe().is_ok()
}
