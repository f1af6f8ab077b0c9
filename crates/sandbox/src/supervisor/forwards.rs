//! Ports of the guest's loopback on the host's loopback.
//!
//! ```text
//!            bind               answer
//!   closed --------> bound -----------------> answering
//!      ^               |                          |
//!      +---------------+----------- close --------+    (a pause, or a start that failed)
//! ```
//!
//! Ports that the sandbox always exposes are bound before its machine is started, so that a port
//! that is taken costs no boot; who connects then waits until the agent has answered. A pause
//! closes all, and its end opens the same again. Each connection is one operation of the agent.
//! Dropping a forward closes its port and its connections.

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
use super::peer_user;
use crate::multiplexer::AgentSession;
use crate::{PortForwards, text};

/// Time between attempts to accept connections while the host has no room for one.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why a port that the sandbox exposes cannot be.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error("port_forwards: port {port} of the host is taken")]
    Taken {
        /// The port.
        port: u16,
    },
    /// The host refuses it.
    #[error("port_forwards: listen on port {port} of the host")]
    Refused {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The forwards of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    all: Vec<OneForward>,
}

#[derive(Debug)]
struct OneForward {
    forward: Forward,
    is_owner_only: bool,
    port: Port,
}

/// Where the connections of a forward go, and whose they may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) guest_port: u16,
    /// Whether only processes of this user, and of root, may connect.
    pub(super) is_owner_only: bool,
}

/// A port of the host, as the drawing above has it.
#[derive(Debug)]
enum Port {
    Closed,
    Bound(TcpListener),
    Answering(AbortOnDropHandle<()>),
}

impl Forwards {
    /// Returns these forwards, all closed.
    pub(super) fn new(forwards: &PortForwards) -> Self {
        let closed = |&forward: &Forward| OneForward {
            forward,
            is_owner_only: false,
            port: Port::Closed,
        };
        Self {
            all: forwards.as_slice().iter().map(closed).collect(),
        }
    }

    /// Binds the ports of all forwards, or of none.
    pub(super) async fn bind(&mut self) -> Result<(), BindError> {
        for index in 0..self.all.len() {
            let port = self.all[index].forward.host_port;
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => self.all[index].port = Port::Bound(listener),
                Err(source) => {
                    self.close().await;
                    return Err(match source.kind() {
                        io::ErrorKind::AddrInUse => BindError::Taken { port },
                        _ => BindError::Refused { port, source },
                    });
                }
            }
        }
        Ok(())
    }

    /// Has the guest answer on all ports that are bound.
    pub(super) fn answer(&mut self, session: &AgentSession, operations: &Operations) {
        for one in &mut self.all {
            one.port = match std::mem::replace(&mut one.port, Port::Closed) {
                Port::Bound(listener) => {
                    let target = Target {
                        guest_port: one.forward.guest_port,
                        is_owner_only: one.is_owner_only,
                    };
                    answering(listener, target, session, operations)
                }
                port => port,
            };
        }
    }

    /// Closes all ports and their connections.
    pub(super) async fn close(&mut self) {
        for one in &mut self.all {
            one.port.close().await;
        }
    }

    /// Adds a forward that answers, or returns the one that does the same already.
    pub(super) async fn add(
        &mut self,
        target: Target,
        wished: Option<u16>,
        session: &AgentSession,
        operations: &Operations,
    ) -> io::Result<Forward> {
        let Target {
            guest_port,
            is_owner_only,
        } = target;
        let is_same = |one: &&OneForward| {
            one.forward.guest_port == guest_port
                && one.is_owner_only == is_owner_only
                && wished.is_none_or(|wished| wished == one.forward.host_port)
        };
        if let Some(found) = self.all.iter().find(is_same) {
            return Ok(found.forward);
        }
        if guest_port == 0 || wished == Some(0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a port must be 1 to 65535",
            ));
        }
        if self.all.len() >= PortForwards::MAX {
            let message = format!("{} ports are exposed already", PortForwards::MAX);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        let listener = listen(wished).await?;
        let forward = Forward {
            host_port: listener.local_addr()?.port(),
            guest_port,
        };
        let port = answering(listener, target, session, operations);
        self.all.push(OneForward {
            forward,
            is_owner_only,
            port,
        });
        Ok(forward)
    }

    /// Removes a forward. Returns whether there was one.
    pub(super) async fn remove(&mut self, forward: Forward) -> bool {
        let Some(at) = self.all.iter().position(|one| one.forward == forward) else {
            return false;
        };
        self.all.remove(at).port.close().await;
        true
    }

    /// Returns the forwards there are, those of a paused sandbox included.
    pub(super) fn list(&self) -> Vec<Forward> {
        self.all.iter().map(|one| one.forward).collect()
    }
}

impl Port {
    /// Closes it, and returns once nobody can connect any more.
    async fn close(&mut self) {
        if let Self::Answering(task) = std::mem::replace(self, Self::Closed) {
            task.abort();
            // Aborting only asks; the listener is gone when the task is.
            let _aborted = task.await;
        }
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

/// Accepts the connections of `listener` from now on.
fn answering(
    listener: TcpListener,
    target: Target,
    session: &AgentSession,
    operations: &Operations,
) -> Port {
    let task = tokio::spawn(accept(
        listener,
        target,
        session.clone(),
        operations.clone(),
    ));
    Port::Answering(AbortOnDropHandle::new(task))
}

async fn accept(
    listener: TcpListener,
    target: Target,
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
                    if let Err(error) = relay(socket, target, &session, &operations).await {
                        let Target { guest_port, .. } = target;
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
    target: Target,
    session: &AgentSession,
    operations: &Operations,
) -> io::Result<()> {
    let Some(_operation) = operations.begin() else {
        return Err(io::ErrorKind::QuotaExceeded.into());
    };
    if target.is_owner_only && !peer_user::is_own(&socket).await? {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    socket.set_nodelay(true)?;
    let stream = session.open().await.map_err(io::Error::other)?;
    let mut framed = Framed::new(stream, FrameCodec);
    let request = Request::Connect(Connect {
        port: target.guest_port,
    });
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
