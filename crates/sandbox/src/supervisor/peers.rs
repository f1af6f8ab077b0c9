//! Where peers connect: open while the sandbox runs, closed while it is paused or stops.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smolvm_network::{Incoming, PeerAnswer, PeerDoor, PeerHello};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::peers::Membership;
use crate::record::SandboxDir;
use crate::store::remove_if_there;
use crate::{socket, text};

/// Peers that may be connected without having said what they want.
const MAX_ARRIVING: usize = 64;

/// How long a peer may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between attempts to accept peers while the host has no room for one.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The socket for peers. Dropping it closes and removes it; what has gone in by it stays.
#[derive(Debug)]
pub(super) struct PeerSocket {
    path: PathBuf,
    _acceptor: AbortOnDropHandle<()>,
}

impl PeerSocket {
    /// Opens it.
    pub(super) fn open(
        directory: &SandboxDir,
        membership: Arc<Membership>,
        door: PeerDoor,
    ) -> io::Result<Self> {
        let path = directory.peers_socket();
        let listener = socket::listen(directory, &path)?;
        // The directory is its owner's alone already.
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let accepting = tokio::spawn(accept(listener, membership, door));
        Ok(Self {
            path,
            _acceptor: AbortOnDropHandle::new(accepting),
        })
    }
}

impl Drop for PeerSocket {
    fn drop(&mut self) {
        remove_if_there(&self.path);
    }
}

async fn accept(listener: UnixListener, membership: Arc<Membership>, door: PeerDoor) {
    let mut arriving = JoinSet::new();
    loop {
        while arriving.try_join_next().is_some() {}
        if arriving.len() >= MAX_ARRIVING {
            arriving.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                arriving.spawn(receive(stream, Arc::clone(&membership), door.clone()));
            }
            Err(error) => {
                // Out of descriptors or memory, of which nobody tells when there are some again.
                tracing::warn!(%error, "peer not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for what a peer wants, and lets it in if it is one.
async fn receive(mut stream: UnixStream, membership: Arc<Membership>, door: PeerDoor) {
    let own = rustix::process::geteuid().as_raw();
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own) {
        return;
    }
    let hello = match timeout(PATIENCE, PeerHello::receive(&mut stream)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => {
            tracing::debug!(error = %text::chain(&error), "peer not understood");
            return;
        }
        Err(_) => return,
    };
    let Some(network) = membership.verify(&hello).await else {
        tracing::debug!(peer = %hello.from, "no member of the same network, or not the one it says");
        // Whoever it is need not wait for it.
        let _gone = PeerAnswer::Denied.send(&mut stream).await;
        return;
    };
    door.enter(Incoming {
        peer: hello.from,
        network,
        protocol: hello.protocol,
        port: hello.port,
        stream: Box::new(stream),
    })
    .await;
}

#[cfg(test)]
mod tests;
