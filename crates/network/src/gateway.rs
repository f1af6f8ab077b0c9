//! The gateway: the only neighbour of a guest, and its only way out.
//!
//! ```text
//!   guest's frames --> [ router ] --> host link: ARP, neighbour discovery, pings to the gateway
//!        (frame)            |     --> resolver: DNS over UDP
//!                           |     --> flows, a task each: judge -> log -> carry
//!                           |            tcp  -> relay (terminal) [-> gate: names that TLS and HTTP show]
//!                           |            udp  -> a connected socket
//!                           |            echo -> a ping socket
//!                           |            any to a peer's address -> the peer's gateway
//!   peers' gateways --> [ router ] --> flows into the guest
//!   guest's frames <-- [ writer ] <-- all of them, in one bounded queue
//! ```
//!
//! Everything that comes from the guest is hostile. No buffer grows with what it sends: flows,
//! packets that wait for them and frames that wait for the guest are all bounded, and what goes
//! beyond is lost, as on any link, and counted in the log. A socket of the host's is opened only
//! for a flow that the policy allows.

mod buffers;
mod content;
mod context;
mod dns_service;
mod echo;
mod flow;
mod from_peer;
mod gate;
mod host_link;
mod outgoing;
mod packet;
mod relay;
mod router;
mod tcp;
mod terminal;
mod to_peer;
mod udp;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smoltcp::wire::{EthernetAddress, IpCidr};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::frame::{FrameReader, write_frames};
use crate::throttle::Throttle;
use crate::{CauseQuestion, EventSink, PeersConfig, PolicyHandle, UpstreamConfig};
pub use content::ContentConfig;
use context::Context;
pub use from_peer::{Incoming, PeerDoor};
use host_link::HostLink;
use outgoing::{Link, Outgoing};
use router::Router;

/// Frames that wait for the guest, at most: what a moment's burst of a few flows makes.
const OUTGOING_FRAMES: usize = 256;

/// Connections of peers that wait for the router, at most.
const INCOMING_QUEUE: usize = 16;

/// Who is who on the link between a guest and its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The guest's hardware address.
    pub guest_mac: [u8; 6],
    /// The gateway's hardware address.
    pub gateway_mac: [u8; 6],
    /// The guest's addresses. Packets from others are dropped.
    pub guest: Vec<IpAddr>,
    /// The gateway's addresses, with the prefixes of the link; one of each IP version at most.
    pub gateway: Vec<IpNet>,
    /// Addresses that stand for the host's loopback; `host.smolvm.internal` resolves to them.
    pub host: Vec<IpAddr>,
    /// Longest IP packet on the link, in bytes.
    pub mtu: u16,
}

/// How much of the host's network one guest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections and exchanges at once.
    pub max_flows: usize,
    /// DNS queries per second.
    pub dns_queries_per_second: u32,
    /// Bytes per second from the guest; unlimited when absent.
    pub upload_bytes_per_second: Option<u64>,
    /// Bytes per second to the guest; unlimited when absent.
    pub download_bytes_per_second: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // 64 KiB each make 64 MiB at most.
            max_flows: 1024,
            // What a browser with many tabs asks in its busiest second, several times over.
            dns_queries_per_second: 500,
            upload_bytes_per_second: None,
            download_bytes_per_second: None,
        }
    }
}

/// All that a gateway needs to know.
#[derive(Debug)]
pub struct GatewayConfig {
    /// The link.
    pub link: LinkConfig,
    /// What is allowed; changes apply to new flows, and to flows under way that they deny.
    pub policy: PolicyHandle,
    /// Who is asked about the names that the guest asks for.
    pub upstream: UpstreamConfig,
    /// What is done with the content of connections.
    pub content: ContentConfig,
    /// Where everything is told.
    pub log: EventSink,
    /// Where it is asked what causes events; without, no cause is known.
    pub causes: Option<mpsc::Sender<CauseQuestion>>,
    /// How much may be used.
    pub limits: Limits,
    /// Its peers; absent where the sandbox is in no private network.
    pub peers: Option<PeersConfig>,
}

/// A gateway at work. Dropping it ends all connections.
#[derive(Debug)]
pub struct Gateway {
    router: AbortOnDropHandle<()>,
    writer: AbortOnDropHandle<()>,
    door: PeerDoor,
}

impl Gateway {
    /// Starts a gateway for the guest whose frames `stream` carries. It ends with the stream.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        config: GatewayConfig,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (frames, queue) = mpsc::channel(OUTGOING_FRAMES);
        let link = Link {
            gateway: EthernetAddress(config.link.gateway_mac),
            guest: EthernetAddress(config.link.guest_mac),
        };
        let host_link = HostLink::new(
            link,
            usize::from(config.link.mtu),
            config.link.gateway.iter().map(|&address| cidr(address)),
        );
        let download = Throttle::new(config.limits.download_bytes_per_second);
        let context = Arc::new(Context::new(Outgoing::new(link, frames), config));
        let (door, incoming) = PeerDoor::new(INCOMING_QUEUE);
        let router = Router::new(context, host_link, incoming);
        Self {
            router: AbortOnDropHandle::new(tokio::spawn(async move {
                if let Err(error) = router.run(FrameReader::new(reader)).await {
                    tracing::warn!(%error, "guest's link failed");
                }
            })),
            writer: AbortOnDropHandle::new(tokio::spawn(async move {
                if let Err(error) = write_frames(writer, queue, &download).await {
                    tracing::debug!(%error, "guest's link closed");
                }
            })),
            door,
        }
    }

    /// Returns where connections of peers go in.
    #[must_use]
    pub fn door(&self) -> PeerDoor {
        self.door.clone()
    }

    /// Ends all connections, and returns when everything that records events has ended.
    pub async fn end(self) {
        let Self { router, writer, .. } = self;
        router.abort();
        // However they ended, they are gone.
        let _aborted = router.await;
        drop(writer);
    }
}

fn cidr(address: IpNet) -> IpCidr {
    IpCidr::new(address.addr().into(), address.prefix_len())
}
