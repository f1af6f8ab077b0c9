//! Peers: the other members of a sandbox's private networks, found by name and reached gateway to
//! gateway.
//!
//! ```text
//!   a guest                    its gateway                     the peer's gateway          its guest
//!     db? --DNS--> Peers.resolve: PeerDirectory.network_with
//!     <-- an address of this gateway's own range, for db
//!     SYN -------> policy (out) --> PeerDirectory.dial ------> who is it? policy (in) --SYN-->
//!     <-- SYN, ACK ---------------- PeerAnswer::Opened <------------------------------- SYN, ACK
//!     bytes <--------------------- PeerStream or frames --------------------------------> bytes
//! ```
//!
//! Addresses of peers mean something to one gateway only, which gives them out as names are asked
//! for and peers connect, so nothing has to be agreed on. Who is a member, and how a peer is
//! reached, is the directory's business: the gateway knows names.

mod name;
mod stream;
mod table;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use tokio::time::timeout;

use crate::{BoxStream, Protocol};
pub use name::{PEER_DOMAIN, PeerName};
pub(crate) use stream::PeerStream;
use table::PeerTable;
pub use wire::{PeerAnswer, PeerHello, PeerHelloError};

/// How long a peer may take to open a connection. Its guest's answer takes longest.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);

/// Who the peers of a sandbox are, and the way to them.
pub trait PeerDirectory: Send + Sync {
    /// Returns a network that this sandbox and `peer` are both members of, if there is one.
    fn network_with<'a>(&'a self, peer: &'a PeerName) -> BoxFuture<'a, Option<Arc<str>>>;

    /// Connects to the gateway of `peer` and says, by a [`PeerHello`], what is asked of it.
    fn dial<'a>(
        &'a self,
        peer: &'a PeerName,
        protocol: Protocol,
        port: u16,
    ) -> BoxFuture<'a, io::Result<BoxStream>>;
}

/// What a gateway needs to know of private networks when its sandbox is in one.
#[derive(Clone)]
pub struct PeersConfig {
    /// The sandbox's own name.
    pub own: PeerName,
    /// Addresses that stand for peers. The first and the last one are left out.
    pub range: Ipv4Net,
    /// Who they are.
    pub directory: Arc<dyn PeerDirectory>,
}

impl std::fmt::Debug for PeersConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeersConfig")
            .field("own", &self.own)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// A peer, and a network that it shares with the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: PeerName,
    pub(crate) network: Arc<str>,
}

/// What a guest's question for a peer comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// It asked for itself.
    Own,
    /// It asked for this peer, which has this address.
    Member(Peer, Ipv4Addr),
    /// No member of its networks has this name.
    Nobody,
    /// There is no address left.
    Full,
}

/// The peers of one sandbox.
pub(crate) struct Peers {
    own: PeerName,
    directory: Arc<dyn PeerDirectory>,
    /// Locked for a look-up only.
    table: Mutex<PeerTable>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl Peers {
    pub(crate) fn new(config: PeersConfig) -> Self {
        Self {
            own: config.own,
            directory: config.directory,
            table: Mutex::new(PeerTable::new(config.range)),
        }
    }

    /// Finds the peer that a guest asks for.
    pub(crate) async fn resolve(&self, name: PeerName) -> Resolved {
        if name == self.own {
            return Resolved::Own;
        }
        let Some(network) = self.directory.network_with(&name).await else {
            return Resolved::Nobody;
        };
        let peer = Peer { name, network };
        match self.address_of(&peer) {
            Some(address) => Resolved::Member(peer, address),
            None => Resolved::Full,
        }
    }

    /// Returns the address that stands for a peer; `None` when none is left for it.
    pub(crate) fn address_of(&self, peer: &Peer) -> Option<Ipv4Addr> {
        self.table().address_of(peer)
    }

    /// Returns the peer that an address stands for.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Peer> {
        match address {
            IpAddr::V4(address) => self.table().at(address).cloned(),
            IpAddr::V6(_) => None,
        }
    }

    /// Has a peer open a connection to a port of its guest.
    pub(crate) async fn open(
        &self,
        peer: &PeerName,
        protocol: Protocol,
        port: u16,
    ) -> Result<BoxStream, NotOpened> {
        let open = async {
            let dialled = self.directory.dial(peer, protocol, port).await;
            let mut stream = dialled.map_err(NotOpened::Away)?;
            match PeerAnswer::receive(&mut stream).await {
                Ok(PeerAnswer::Opened) => Ok(stream),
                Ok(PeerAnswer::Refused) => Err(NotOpened::Refused),
                Ok(PeerAnswer::Denied) => Err(NotOpened::Denied),
                Ok(PeerAnswer::Silent) => Err(NotOpened::Silent),
                Err(error) => Err(NotOpened::Away(error)),
            }
        };
        let opened = timeout(OPEN_PATIENCE, open).await;
        opened.unwrap_or(Err(NotOpened::Silent))
    }

    fn table(&self) -> MutexGuard<'_, PeerTable> {
        // The table is whole between any two of its statements that could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a peer has not opened a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOpened {
    /// Nothing listens on the port of its guest.
    #[error("connection refused by the peer's guest")]
    Refused,
    /// It does not let this sandbox in, or not there.
    #[error("denied by the peer")]
    Denied,
    /// Its guest does not answer.
    #[error("the peer's guest does not answer")]
    Silent,
    /// It does not run, or has too much to do.
    #[error("the peer does not take connections: {0}")]
    Away(io::Error),
}
