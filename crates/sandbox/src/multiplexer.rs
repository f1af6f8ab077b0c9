//! The host's end of the multiplexed stream to the agent.
//!
//! One task owns the yamux connection; everybody else asks it for streams through a bounded
//! channel. The task ends when the connection does, or when nobody can ask any more.

use std::future::poll_fn;
use std::task::{Context, Poll};

use futures::{SinkExt as _, StreamExt as _};
use smolvm_protocol::message::{
    AgentHello, Event, Exec, GuestNetwork, HostHello, IDENTITY_CAPABILITY, Identity, JobStatus,
    MAX_JOBS, NETWORK_CAPABILITY, Owner, Refusal, Request, Socket,
};
use smolvm_protocol::multiplex::{MAX_STREAMS, SESSION_WINDOW_BYTES};
use smolvm_protocol::{Frame, FrameCodec, FrameError, FrameKind, GENERATION, OLDEST_GENERATION};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::Framed;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Stream;
use crate::record::unix_time_ms;

/// Requests for a stream that may wait while the connection is busy.
const OPEN_QUEUE: usize = 16;

/// A stream that carries one operation.
pub(crate) type AgentStream = Compat<yamux::Stream>;

/// Such a stream, cut into frames.
pub(crate) type Conversation = Framed<AgentStream, FrameCodec>;

/// Why the agent cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The connection to the agent is gone.
    #[error("reach the agent: the connection is closed")]
    Closed,
    /// The connection broke the multiplexer's protocol.
    #[error("reach the agent")]
    Multiplexer(#[from] yamux::ConnectionError),
    /// The agent's answer is not one.
    #[error("understand the agent")]
    Frame(#[from] FrameError),
    /// The agent refused.
    #[error("ask the agent: {}", .0.message)]
    Refused(Refusal),
    /// The agent said something else than an answer.
    #[error("understand the agent: unexpected answer")]
    Unexpected,
    /// No generation of the protocol is known to both sides.
    #[error(
        "open a session: the agent speaks protocol generations {agent_oldest} to {agent}, this \
         smolvm {OLDEST_GENERATION} to {GENERATION}"
    )]
    Incompatible {
        /// The agent's generation.
        agent: u32,
        /// The oldest generation the agent understands.
        agent_oldest: u32,
    },
    /// The agent is older than recordings.
    #[error("open a session: the agent cannot become somebody else")]
    NoIdentity,
    /// The agent is older than networks.
    #[error("open a session: the agent cannot set up a network")]
    NoNetwork,
}

type OpenReply = oneshot::Sender<Result<yamux::Stream, yamux::ConnectionError>>;

/// What a guest is to be set up with when its host says hello. What is absent stays as it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuestSettings {
    /// Processes and threads that all commands together may have.
    pub(crate) max_processes: Option<u32>,
    /// How its network interface is configured.
    pub(crate) network: Option<GuestNetwork>,
    /// The certificate authority, in PEM, that its programs are to trust.
    pub(crate) ca_certificate: Option<String>,
    /// Environment variables that its commands have which are not given others.
    pub(crate) variables: Option<Vec<(String, String)>>,
    /// Who it is, where it goes on from a recording.
    pub(crate) identity: Option<Identity>,
}

/// The way to the agent. Clones share one connection.
#[derive(Clone, Debug)]
pub(crate) struct AgentSession {
    requests: mpsc::Sender<OpenReply>,
}

impl AgentSession {
    /// Takes `stream` over. The task that is returned ends when the connection does.
    pub(crate) fn start(stream: Box<dyn Stream>) -> (Self, AbortOnDropHandle<()>) {
        let (requests, received) = mpsc::channel(OPEN_QUEUE);
        let connection = yamux::Connection::new(stream.compat(), config(), yamux::Mode::Client);
        let driver = AbortOnDropHandle::new(tokio::spawn(drive(connection, received)));
        (Self { requests }, driver)
    }

    /// Opens a stream for one operation.
    pub(crate) async fn open(&self) -> Result<AgentStream, SessionError> {
        let (reply, opened) = oneshot::channel();
        self.requests
            .send(reply)
            .await
            .map_err(|_| SessionError::Closed)?;
        Ok(opened.await.map_err(|_| SessionError::Closed)??.compat())
    }

    /// Says hello and returns what the agent says of itself. Waits as long as the guest boots.
    pub(crate) async fn hello(&self, settings: GuestSettings) -> Result<AgentHello, SessionError> {
        let wants_identity = settings.identity.is_some();
        let wants_network = settings.network.is_some() || settings.ca_certificate.is_some();
        let request = Request::Hello(HostHello {
            generation: GENERATION,
            oldest_generation: OLDEST_GENERATION,
            unix_time_ns: unix_time_ms().saturating_mul(1_000_000),
            max_processes: settings.max_processes,
            network: settings.network,
            ca_certificate: settings.ca_certificate,
            variables: settings.variables,
            identity: settings.identity,
        });
        let hello = match self.ask(&request).await? {
            Event::Hello(hello) => hello,
            Event::Refused(refusal) => return Err(SessionError::Refused(refusal)),
            _ => return Err(SessionError::Unexpected),
        };
        let has_common_generation =
            hello.oldest_generation <= GENERATION && OLDEST_GENERATION <= hello.generation;
        if !has_common_generation {
            return Err(SessionError::Incompatible {
                agent: hello.generation,
                agent_oldest: hello.oldest_generation,
            });
        }
        let can = |wanted: &str| {
            hello
                .capabilities
                .iter()
                .any(|capability| capability == wanted)
        };
        if wants_network && !can(NETWORK_CAPABILITY) {
            return Err(SessionError::NoNetwork);
        }
        if wants_identity && !can(IDENTITY_CAPABILITY) {
            return Err(SessionError::NoIdentity);
        }
        Ok(hello)
    }

    /// Sets the guest's clock to the host's.
    pub(crate) async fn set_clock(&self) -> Result<(), SessionError> {
        self.hello(GuestSettings::default()).await.map(drop)
    }

    /// Returns how every job is, in no order.
    pub(crate) async fn list_jobs(&self) -> Result<Vec<JobStatus>, SessionError> {
        let mut stream = self.request(&Request::ListJobs).await?;
        let mut jobs = Vec::new();
        loop {
            match next_event(&mut stream).await? {
                Event::Job(job) if jobs.len() < MAX_JOBS => jobs.push(job),
                Event::Done => return Ok(jobs),
                Event::Refused(refusal) => return Err(SessionError::Refused(refusal)),
                _ => return Err(SessionError::Unexpected),
            }
        }
    }

    /// Opens a stream for questions which commands have opened sockets.
    pub(crate) async fn find_owners(&self) -> Result<OwnerSearch, SessionError> {
        Ok(OwnerSearch(self.request(&Request::FindOwners).await?))
    }

    /// Runs a command without input. What the agent says of it comes next.
    pub(crate) async fn exec(&self, exec: &Exec) -> Result<Conversation, SessionError> {
        self.request(&Request::Exec(exec.clone())).await
    }

    /// Runs a command without input to its end, however that is; what it says is lost.
    pub(crate) async fn run_to_end(&self, exec: &Exec) -> Result<(), SessionError> {
        let mut stream = self.exec(exec).await?;
        while let Some(frame) = stream.next().await {
            let frame = frame?;
            if frame.kind == FrameKind::Message
                && matches!(frame.parse()?, Event::Exited(_) | Event::Refused(_))
            {
                return Ok(());
            }
        }
        Err(SessionError::Closed)
    }

    /// Has the guest get ready to be recorded.
    pub(crate) async fn settle(&self) -> Result<(), SessionError> {
        match self.ask(&Request::Settle).await? {
            Event::Done => Ok(()),
            Event::Refused(refusal) => Err(SessionError::Refused(refusal)),
            _ => Err(SessionError::Unexpected),
        }
    }

    /// Asks the guest to shut down. Returns when that has begun.
    pub(crate) async fn shut_down(&self) -> Result<(), SessionError> {
        match self.ask(&Request::Shutdown).await? {
            Event::Refused(refusal) => Err(SessionError::Refused(refusal)),
            _ => Ok(()),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Event, SessionError> {
        next_event(&mut self.request(request).await?).await
    }

    async fn request(&self, request: &Request) -> Result<Conversation, SessionError> {
        let mut stream = Framed::new(self.open().await?, FrameCodec);
        stream.send(Frame::message(request)?).await?;
        Ok(stream)
    }
}

/// Questions which commands have opened sockets.
#[derive(Debug)]
pub(crate) struct OwnerSearch(Conversation);

impl OwnerSearch {
    /// Asks about one. A question that is dropped before it is answered leaves the search unusable.
    pub(crate) async fn owner_of(&mut self, socket: Socket) -> Result<Option<Owner>, SessionError> {
        self.0.send(Frame::message(&socket)?).await?;
        match next_event(&mut self.0).await? {
            Event::Owner(owner) => Ok(owner),
            Event::Refused(refusal) => Err(SessionError::Refused(refusal)),
            _ => Err(SessionError::Unexpected),
        }
    }
}

async fn next_event(stream: &mut Conversation) -> Result<Event, SessionError> {
    let frame = stream.next().await.ok_or(SessionError::Closed)??;
    Ok(frame.parse()?)
}

/// Returns the parameters of both ends of the connection.
pub(crate) fn config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(SESSION_WINDOW_BYTES));
    config
}

type Connection = yamux::Connection<Compat<Box<dyn Stream>>>;

async fn drive(mut connection: Connection, mut requests: mpsc::Receiver<OpenReply>) {
    let mut waiting = None;
    poll_fn(|context| drive_once(&mut connection, &mut requests, &mut waiting, context)).await;
}

fn drive_once(
    connection: &mut Connection,
    requests: &mut mpsc::Receiver<OpenReply>,
    waiting: &mut Option<OpenReply>,
    context: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if waiting.is_none() {
            match requests.poll_recv(context) {
                Poll::Ready(Some(reply)) => *waiting = Some(reply),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        if waiting.is_some()
            && let Poll::Ready(opened) = connection.poll_new_outbound(context)
            && let Some(reply) = waiting.take()
        {
            // Whoever asked may have gone; the stream is then dropped, which resets it.
            let _asker_gone = reply.send(opened);
            continue;
        }
        match connection.poll_next_inbound(context) {
            // The agent has no reason to open streams; dropping one resets it.
            Poll::Ready(Some(Ok(_uninvited))) => {}
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}
