//! Connections of clients: one operation each.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use smolvm_protocol::control::{SupervisorReply, SupervisorRequest};
use smolvm_protocol::message::{Refusal, RefusalCode};
use smolvm_protocol::multiplex::MAX_OPERATIONS;
use smolvm_protocol::{Frame, FrameCodec, FrameError};
use tokio::io::{AsyncWriteExt as _, Interest, copy_bidirectional_with_sizes};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::codec::Framed;
use tokio_util::task::AbortOnDropHandle;

use crate::multiplexer::AgentSession;
use crate::text;

/// A connection that speaks in frames.
pub(super) type Connection = Framed<UnixStream, FrameCodec>;

/// Clients that may wait for the driver.
const CLIENT_QUEUE: usize = 64;

/// Clients that may be connected without having said what they want.
const MAX_ARRIVING: usize = 64;

/// Time between attempts to accept clients while the host has no room for one.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long a client may take to say what it wants, or to take a one-frame answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes copied at once between a client and the agent, each way: one full data frame.
const RELAY_BYTES: usize = smolvm_protocol::MAX_DATA_BYTES;

/// A client that has said what it wants.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) request: SupervisorRequest,
    pub(super) connection: Connection,
}

/// Accepts clients and carries their bytes. Dropping it ends all of that.
#[derive(Debug)]
pub(super) struct Clients {
    streams: Arc<Semaphore>,
    relays: JoinSet<()>,
    _acceptor: AbortOnDropHandle<()>,
}

impl Clients {
    /// Starts to accept clients of `listener`. Returns the queue on which they arrive.
    pub(super) fn start(listener: UnixListener) -> (Self, mpsc::Receiver<Client>) {
        let (sender, receiver) = mpsc::channel(CLIENT_QUEUE);
        let acceptor = AbortOnDropHandle::new(tokio::spawn(accept(listener, sender)));
        let streams = Arc::new(Semaphore::new(MAX_OPERATIONS));
        (
            Self {
                streams,
                relays: JoinSet::new(),
                _acceptor: acceptor,
            },
            receiver,
        )
    }

    /// Returns how many operations are under way.
    pub(super) fn open_streams(&self) -> u32 {
        let open = (MAX_OPERATIONS).saturating_sub(self.streams.available_permits());
        u32::try_from(open).unwrap_or(u32::MAX)
    }

    /// Makes `connection` a stream to the agent.
    pub(super) fn relay(&mut self, session: AgentSession, connection: Connection) {
        let permit = Arc::clone(&self.streams).try_acquire_owned().ok();
        while self.relays.try_join_next().is_some() {}
        self.relays.spawn(async move {
            match permit {
                Some(permit) => relay(session, connection, permit).await,
                None => {
                    let message = format!("{} operations are under way", MAX_OPERATIONS);
                    refuse(connection, RefusalCode::ResourcesExhausted, message).await;
                }
            }
        });
    }
}

/// Answers a client with one frame and closes the connection.
pub(super) async fn reply(mut connection: Connection, reply: &SupervisorReply) {
    if let Err(error) = send(&mut connection, reply).await {
        tracing::debug!(error = %text::chain(&error), "client not answered");
    }
}

async fn refuse(connection: Connection, code: RefusalCode, message: String) {
    reply(
        connection,
        &SupervisorReply::Refused(Refusal { code, message }),
    )
    .await;
}

async fn send(connection: &mut Connection, reply: &SupervisorReply) -> Result<(), FrameError> {
    let frame = Frame::message(reply)?;
    tokio::time::timeout(PATIENCE, connection.send(frame))
        .await
        .map_err(|_| FrameError::Io(std::io::ErrorKind::TimedOut.into()))?
}

async fn accept(listener: UnixListener, clients: mpsc::Sender<Client>) {
    let mut arriving = JoinSet::new();
    while !clients.is_closed() {
        while arriving.try_join_next().is_some() {}
        if arriving.len() >= MAX_ARRIVING {
            arriving.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                arriving.spawn(receive(stream, clients.clone()));
            }
            Err(error) => {
                // Out of descriptors or memory, of which nobody tells when there are some again.
                tracing::warn!(%error, "client not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for what a client wants, and hands it to the driver.
async fn receive(stream: UnixStream, clients: mpsc::Sender<Client>) {
    let mut connection = Framed::new(stream, FrameCodec);
    let Ok(Some(Ok(frame))) = tokio::time::timeout(PATIENCE, connection.next()).await else {
        return;
    };
    match frame.parse() {
        Ok(request) => {
            // Without a driver the sandbox has ended, and the connection ends with it.
            let _ended = clients
                .send(Client {
                    request,
                    connection,
                })
                .await;
        }
        Err(error) => {
            refuse(connection, RefusalCode::UnknownRequest, text::chain(&error)).await;
        }
    }
}

async fn relay(session: AgentSession, mut connection: Connection, _permit: OwnedSemaphorePermit) {
    let mut agent = match session.open().await {
        Ok(agent) => agent,
        Err(error) => {
            return refuse(connection, RefusalCode::ShuttingDown, text::chain(&error)).await;
        }
    };
    if send(&mut connection, &SupervisorReply::StreamOpened)
        .await
        .is_err()
    {
        return;
    }
    let parts = connection.into_parts();
    let mut client = parts.io;
    if agent.write_all(&parts.read_buf).await.is_err() {
        return;
    }
    drop(parts.read_buf);
    let Ok(hang_up) = HangUp::of(&client) else {
        return;
    };
    // Either side going away ends the operation. The stream is then dropped, which resets it:
    // an end in order would stand in line behind bytes that the guest may never read.
    tokio::select! {
        _ended = copy_bidirectional_with_sizes(&mut client, &mut agent, RELAY_BYTES, RELAY_BYTES) => {}
        () = hang_up.wait() => {}
    }
}

/// Tells when the other end of a socket is closed in both directions.
struct HangUp(UnixStream);

impl HangUp {
    fn of(socket: &UnixStream) -> io::Result<Self> {
        let copy = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(UnixStream::from_std(copy.into())?))
    }

    async fn wait(&self) {
        // epoll(7) reports EPOLLHUP, which closes both directions, whatever was asked for; tokio
        // shows it to whoever waits for room to write. Half a close does not show here.
        while let Ok(ready) = self.0.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            // Nothing is written: this only forgets that there is room, to wait for news.
            let wait = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _would_block = self.0.try_io(Interest::WRITABLE, wait);
        }
    }
}
