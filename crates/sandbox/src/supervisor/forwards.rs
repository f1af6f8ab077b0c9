//! Ports of the guest's loopback on the host's loopback.
//!
//! Each forward is a listener and a task that accepts its connections; each connection is one
//! operation of the agent. Dropping a forward closes its port and its connections.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use smolvm_protocol::control::Forward;
use smolvm_protocol::message::{Connect, Event, Request};
use smolvm_protocol::{Frame, FrameCodec};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::codec::Framed;
use tokio_util::task::AbortOnDropHandle;

use super::clients::Operations;
use crate::multiplexer::AgentSession;
use crate::text;

/// Most ports that one sandbox exposes: far below what operations it has.
const MAX_FORWARDS: usize = 64;

/// Time between attempts to accept connections while the host has no room for one.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The forwards of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    open: Vec<OpenForward>,
}

#[derive(Debug)]
struct OpenForward {
    forward: Forward,
    _task: AbortOnDropHandle<()>,
}

impl Forwards {
    /// Opens a forward, or returns the one that does the same already.
    pub(super) async fn open(
        &mut self,
        guest_port: u16,
        wished: Option<u16>,
        session: &AgentSession,
        operations: &Operations,
    ) -> io::Result<Forward> {
        let is_same = |forward: &Forward| {
            forward.guest_port == guest_port
                && wished.is_none_or(|wished| wished == forward.host_port)
        };
        if let Some(found) = self.list().into_iter().find(is_same) {
            return Ok(found);
        }
        if guest_port == 0 || wished == Some(0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a port must be 1 to 65535",
            ));
        }
        if self.open.len() >= MAX_FORWARDS {
            let message = format!("{MAX_FORWARDS} ports are exposed already");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        let listener = listen(wished).await?;
        let forward = Forward {
            host_port: listener.local_addr()?.port(),
            guest_port,
        };
        let task = tokio::spawn(accept(
            listener,
            guest_port,
            session.clone(),
            operations.clone(),
        ));
        self.open.push(OpenForward {
            forward,
            _task: AbortOnDropHandle::new(task),
        });
        Ok(forward)
    }

    /// Closes a forward. Returns whether there was one.
    pub(super) fn close(&mut self, forward: Forward) -> bool {
        let before = self.open.len();
        self.open.retain(|open| open.forward != forward);
        self.open.len() < before
    }

    /// Closes all forwards.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Returns the forwards there are.
    pub(super) fn list(&self) -> Vec<Forward> {
        self.open.iter().map(|open| open.forward).collect()
    }
}

/// Listens on the port that is wished for, or on a free one when that is taken.
async fn listen(wished: Option<u16>) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, wished.unwrap_or(0))).await {
        Err(error) if wished.is_some() && error.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        }
        bound => bound,
    }
}

async fn accept(
    listener: TcpListener,
    guest_port: u16,
    session: AgentSession,
    operations: Operations,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((socket, _)) => {
                let (session, operations) = (session.clone(), operations.clone());
                connections.spawn(async move {
                    if let Err(error) = relay(socket, guest_port, &session, &operations).await {
                        tracing::debug!(guest_port, error = %text::chain(&error), "connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors or memory, of which nobody tells when there are some again.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Joins a connection to the guest's port. Whoever connected sees a refusal as a closed
/// connection: it was accepted before the guest could be asked.
async fn relay(
    mut socket: TcpStream,
    guest_port: u16,
    session: &AgentSession,
    operations: &Operations,
) -> io::Result<()> {
    let Some(_operation) = operations.begin() else {
        return Err(io::ErrorKind::QuotaExceeded.into());
    };
    socket.set_nodelay(true)?;
    let stream = session.open().await.map_err(io::Error::other)?;
    let mut framed = Framed::new(stream, FrameCodec);
    let request = Request::Connect(Connect { port: guest_port });
    let request = Frame::message(&request).map_err(io::Error::other)?;
    framed.send(request).await.map_err(io::Error::other)?;
    let answer = match framed.next().await {
        Some(Ok(frame)) => frame.parse::<Event>().map_err(io::Error::other)?,
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    if !matches!(answer, Event::Connected) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let parts = framed.into_parts();
    socket.write_all(&parts.read_buf).await?;
    let mut guest = parts.io;
    copy_bidirectional(&mut socket, &mut guest).await?;
    Ok(())
}
