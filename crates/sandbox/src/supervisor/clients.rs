//! Connections of clients: one operation each.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use smolvm_protocol::control::{SupervisorReply, SupervisorRequest};
use smolvm_protocol::message::{Refusal, RefusalCode};
use smolvm_protocol::multiplex::MAX_OPERATIONS;
use smolvm_protocol::{Frame, FrameCodec, FrameError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, Interest, copy_buf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
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

/// The operations under way on the agent, of which there is a bounded number, and when the last
/// of them ended. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Operations {
    free: Arc<Semaphore>,
    last_end: Arc<Mutex<Instant>>,
}

/// One operation under way; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Operation {
    last_end: Arc<Mutex<Instant>>,
    _permit: OwnedSemaphorePermit,
}

impl Operations {
    fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MAX_OPERATIONS)),
            last_end: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Begins one, where there is room.
    pub(super) fn begin(&self) -> Option<Operation> {
        Some(Operation {
            _permit: Arc::clone(&self.free).try_acquire_owned().ok()?,
            last_end: Arc::clone(&self.last_end),
        })
    }

    /// Returns how many are under way.
    pub(super) fn under_way(&self) -> usize {
        MAX_OPERATIONS.saturating_sub(self.free.available_permits())
    }

    /// Returns since when nothing has been under way; `None` while something is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let last_end = *self.last_end.lock().unwrap_or_else(PoisonError::into_inner);
        (self.under_way() == 0).then_some(last_end)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        *self.last_end.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Accepts clients and carries their bytes. Dropping it ends all of that.
#[derive(Debug)]
pub(super) struct Clients {
    operations: Operations,
    relays: JoinSet<()>,
    _acceptor: AbortOnDropHandle<()>,
}

impl Clients {
    /// Starts to accept clients of `listener`. Returns the queue on which they arrive.
    pub(super) fn start(listener: UnixListener) -> (Self, mpsc::Receiver<Client>) {
        let (sender, receiver) = mpsc::channel(CLIENT_QUEUE);
        let acceptor = AbortOnDropHandle::new(tokio::spawn(accept(listener, sender)));
        (
            Self {
                operations: Operations::new(),
                relays: JoinSet::new(),
                _acceptor: acceptor,
            },
            receiver,
        )
    }

    /// Returns the operations, to be counted and added to.
    pub(super) const fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Makes `connection` a stream to the agent.
    pub(super) fn relay(&mut self, session: AgentSession, connection: Connection) {
        let operation = self.operations.begin();
        while self.relays.try_join_next().is_some() {}
        self.relays.spawn(async move {
            match operation {
                Some(operation) => relay(session, connection, operation).await,
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

async fn relay(session: AgentSession, mut connection: Connection, _operation: Operation) {
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
    let client = parts.io;
    if agent.write_all(&parts.read_buf).await.is_err() {
        return;
    }
    drop(parts.read_buf);
    let Ok(hang_up) = HangUp::of(&client) else {
        return;
    };
    let (client_reader, client_writer) = client.into_split();
    let (agent_reader, agent_writer) = tokio::io::split(agent);
    let sending = carry(client_reader, agent_writer);
    let receiving = carry(agent_reader, client_writer);
    tokio::pin!(sending, receiving);
    let mut has_sent = false;
    loop {
        // A client that goes away ends the operation. The stream is then dropped, which resets
        // it: an end in order would stand in line behind bytes that the guest may never read.
        tokio::select! {
            sent = &mut sending, if !has_sent => match sent {
                Ok(()) => has_sent = true,
                Err(_) => return,
            },
            _received = &mut receiving => break,
            () = hang_up.wait() => return,
        }
    }
    // The guest is done, and so this side is shut; that the client's is, too, is no hang-up any
    // more. What it had sent before is still on its way.
    if !has_sent {
        let _ended = sending.await;
    }
}

/// Copies until the end of `from`, and passes that end on.
async fn carry(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut from = BufReader::with_capacity(RELAY_BYTES, from);
    copy_buf(&mut from, &mut to).await?;
    to.shutdown().await
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
