//! The peers of a running sandbox: who is one, how it is reached, and how it is known again.
//!
//! ```text
//!   <sandbox>/peers.sock   where its supervisor listens for peers while it runs
//!   <sandbox>/peers.proof  what its supervisor shows to those of peers
//! ```
//!
//! Both are readable by the sandbox's owner alone, as is the directory. The kernel tells the user
//! of a process that connects; the proof, which changes with each start, that it is the supervisor
//! of the sandbox it names, and not a VMM that its guest has taken over: a VMM's jail has no way to
//! the file. Who is a member of what, both sides read from the specifications on the disk.

use std::io::{self, Read as _};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use smolvm_network::{BoxStream, PeerDirectory, PeerHello, PeerName, PeersConfig, Protocol};

use crate::network::PEER_IPV4;
use crate::private_networks::Networks;
use crate::record::{SandboxDir, write_private};
use crate::store::Store;
use crate::{SandboxId, SandboxSpec, socket};

/// Random bytes of a proof: more than anybody guesses.
const PROOF_BYTES: usize = 32;

/// What a sandbox that runs has to do with its networks.
#[derive(Debug)]
pub(crate) struct Membership {
    store: Store,
    id: SandboxId,
    name: PeerName,
    networks: Networks,
    proof: String,
}

impl Membership {
    /// Returns the membership of the sandbox in `directory`, with a new proof; `None` where it is in
    /// no network.
    pub(crate) fn begin(spec: &SandboxSpec, directory: &SandboxDir) -> io::Result<Option<Self>> {
        if spec.networks.is_empty() {
            return Ok(None);
        }
        let proof = new_proof()?;
        write_private(&directory.peers_proof(), proof.as_bytes())?;
        let name = PeerName::new(spec.id.as_str()).map_err(io::Error::other)?;
        Ok(Some(Self {
            store: Store::containing(directory.path()).map_err(io::Error::other)?,
            id: spec.id.clone(),
            name,
            networks: spec.networks.clone(),
            proof,
        }))
    }

    /// Returns what the sandbox's gateway is to know of its peers.
    pub(crate) fn config(self: &Arc<Self>) -> PeersConfig {
        PeersConfig {
            own: self.name.clone(),
            range: PEER_IPV4,
            directory: Arc::<Self>::clone(self),
        }
    }

    /// Returns the network that the peer which says `hello` is in with this sandbox, if it is the
    /// one that it says.
    pub(crate) async fn verify(self: &Arc<Self>, hello: &PeerHello) -> Option<Arc<str>> {
        let (this, from, proof) = (Arc::clone(self), hello.from.clone(), hello.proof.clone());
        blocking(move || {
            let directory = this.other(&from)?;
            let expected = read_proof(&directory).ok()?;
            (expected == proof).then_some(())?;
            shared_network(&this.networks, &directory)
        })
        .await
    }

    /// Returns the directory of another sandbox than this one.
    fn other(&self, name: &PeerName) -> Option<SandboxDir> {
        let id: SandboxId = name.as_str().parse().ok()?;
        (id != self.id).then_some(())?;
        self.store.existing(&id).ok()
    }

    async fn connect(&self, peer: &PeerName, hello: PeerHello) -> io::Result<BoxStream> {
        let away = || io::Error::new(io::ErrorKind::ConnectionRefused, "it does not run");
        let directory = self.other(peer).ok_or_else(away)?;
        let connected = socket::connect(&directory, &directory.peers_socket()).await;
        let mut stream = connected.map_err(|_| away())?;
        hello.send(&mut stream).await?;
        Ok(Box::new(stream))
    }
}

/// The directory as its gateway asks it. Files are read apart from the tasks that carry bytes.
impl PeerDirectory for Membership {
    fn network_with<'a>(&'a self, peer: &'a PeerName) -> BoxFuture<'a, Option<Arc<str>>> {
        let directory = self.other(peer);
        let networks = self.networks.clone();
        async move {
            let directory = directory?;
            blocking(move || shared_network(&networks, &directory)).await
        }
        .boxed()
    }

    fn dial<'a>(
        &'a self,
        peer: &'a PeerName,
        protocol: Protocol,
        port: u16,
    ) -> BoxFuture<'a, io::Result<BoxStream>> {
        let hello = PeerHello {
            from: self.name.clone(),
            proof: self.proof.clone(),
            protocol,
            port,
        };
        self.connect(peer, hello).boxed()
    }
}

/// Returns the first of `networks` that the sandbox in `directory` is in.
fn shared_network(networks: &Networks, directory: &SandboxDir) -> Option<Arc<str>> {
    let (spec, _) = directory.read_spec().ok()?;
    let network = networks.shared_with(&spec.networks)?;
    Some(network.as_str().into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading a file does not panic and is never cancelled")
}

fn new_proof() -> io::Result<String> {
    let mut bytes = [0; PROOF_BYTES];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_proof(directory: &SandboxDir) -> io::Result<String> {
    let longest = u64::try_from(2 * PROOF_BYTES).unwrap_or(u64::MAX);
    let mut proof = String::new();
    let file = std::fs::File::open(directory.peers_proof())?;
    file.take(longest).read_to_string(&mut proof)?;
    if proof.len() < 2 * PROOF_BYTES {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(proof)
}
