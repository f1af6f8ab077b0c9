//! Connections that have become WebSockets.

use std::io;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

/// Both sides of a connection that is upgraded as soon as its response is written.
pub(super) struct Tunnel {
    pub(super) guest: OnUpgrade,
    pub(super) server: OnUpgrade,
}

impl Tunnel {
    /// Copies both ways until both sides have ended. What is in it is not looked into: WebSocket
    /// masks the guest's messages, so that no placeholder can be found in them.
    ///
    /// # Errors
    ///
    /// When one side fails.
    pub(super) async fn run(self) -> io::Result<()> {
        let guest = self.guest.await.map_err(io::Error::other)?;
        let server = self.server.await.map_err(io::Error::other)?;
        copy_bidirectional(&mut TokioIo::new(guest), &mut TokioIo::new(server)).await?;
        Ok(())
    }
}
