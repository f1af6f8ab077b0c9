//! The way to a sandbox's supervisor, and through it to the agent.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use smolvm_protocol::control::{SupervisorReply, SupervisorRequest};
use smolvm_protocol::message::{Refusal, RefusalCode};
use smolvm_protocol::{Frame, FrameCodec, FrameError};
use tokio::net::UnixStream;
use tokio_util::codec::Framed;

use crate::store::{LOCK_PATIENCE, Store, StoreError};
use crate::text::Tail;
use crate::{ErrorKind, SandboxId, SandboxState, socket};

/// A connection to a supervisor that speaks in frames.
pub(crate) type Connection = Framed<UnixStream, FrameCodec>;

/// How long a supervisor may take for an answer that needs nothing of the guest.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a supervisor may take to record the end of its machine: it writes down what the
/// console and the network still had, and a busy host takes its time.
pub(crate) const END_PATIENCE: Duration = Duration::from_secs(20);

/// Lines of the console shown with a failure.
const CONSOLE_TAIL_LINES: usize = 60;

/// Why a running sandbox could not be reached or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox is not running.
    #[error("sandbox '{id}' is {}, not running", state.as_str())]
    NotRunning {
        /// The sandbox.
        id: SandboxId,
        /// Its state.
        state: SandboxState,
        /// Why it is in that state, where that is known.
        reason: Option<String>,
    },
    /// Its supervisor does not answer.
    #[error("reach the supervisor of sandbox '{id}': no answer within {} s", ANSWER_PATIENCE.as_secs())]
    Silent {
        /// The sandbox.
        id: SandboxId,
    },
    /// The connection failed.
    #[error("talk to the sandbox")]
    Connection(#[from] FrameError),
    /// The connection ended in the middle of an operation.
    #[error("talk to the sandbox: the connection ended")]
    ConnectionEnded,
    /// The sandbox is not paused.
    #[error("sandbox '{id}' is {}, not paused", state.as_str())]
    NotPaused {
        /// The sandbox.
        id: SandboxId,
        /// Its state.
        state: SandboxState,
    },
    /// Something else was answered than the protocol has.
    #[error("talk to the sandbox: unexpected answer")]
    Unexpected,
    /// The guest's agent, or the supervisor, refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl AccessError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        use smolvm_protocol::message::RefusalCode as Code;

        match self {
            Self::Store(error) => error.kind(),
            Self::NotRunning { .. } | Self::NotPaused { .. } => ErrorKind::Conflict,
            Self::Silent { .. } => ErrorKind::Timeout,
            Self::Connection(_) | Self::ConnectionEnded => ErrorKind::Host,
            Self::Unexpected => ErrorKind::Bug,
            Self::Refused(refusal) => match refusal.code {
                Code::UnknownRequest | Code::Incompatible => ErrorKind::Unsupported,
                Code::Malformed => ErrorKind::Bug,
                Code::InvalidInput
                | Code::ArgumentsTooLong
                | Code::NotADirectory
                | Code::IsADirectory => ErrorKind::InvalidInput,
                Code::NotFound | Code::CommandNotFound | Code::UnknownUser => ErrorKind::NotFound,
                Code::PermissionDenied | Code::NotExecutable => ErrorKind::Denied,
                Code::AlreadyExists | Code::NotEmpty | Code::ShuttingDown | Code::PortTaken => {
                    ErrorKind::Conflict
                }
                Code::Host => ErrorKind::Host,
                Code::NoSpace | Code::ConnectionRefused | Code::ResourcesExhausted | Code::Io => {
                    ErrorKind::GuestFailed
                }
            },
        }
    }
}

/// Where a sandbox is, for whoever operates on it. Owns nothing of it.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) store: Store,
    pub(crate) id: SandboxId,
}

impl Access {
    /// Connects to the supervisor and sends `request`.
    pub(crate) async fn connect(
        &self,
        request: &SupervisorRequest,
    ) -> Result<Connection, AccessError> {
        let directory = self.store.existing(&self.id)?;
        let Ok(stream) = socket::connect(&directory, &directory.socket()).await else {
            return Err(self.not_running().await);
        };
        let mut connection = Framed::new(stream, FrameCodec);
        match connection.send(Frame::message(request)?).await {
            Ok(()) => Ok(connection),
            Err(FrameError::Io(_)) => Err(self.not_running().await),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a stream to the agent.
    pub(crate) async fn open_stream(&self) -> Result<Connection, AccessError> {
        let mut connection = self.connect(&SupervisorRequest::OpenStream).await?;
        match self.reply(&mut connection, ANSWER_PATIENCE).await {
            Ok(SupervisorReply::StreamOpened) => Ok(connection),
            Ok(SupervisorReply::Refused(refusal)) => Err(self.refused(refusal)),
            Ok(_) => Err(AccessError::Unexpected),
            Err(AccessError::ConnectionEnded) => Err(self.not_running().await),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn reply(
        &self,
        connection: &mut Connection,
        patience: Duration,
    ) -> Result<SupervisorReply, AccessError> {
        match tokio::time::timeout(patience, connection.next()).await {
            Ok(Some(Ok(frame))) => Ok(frame.parse()?),
            Ok(Some(Err(FrameError::Io(_))) | None) => Err(AccessError::ConnectionEnded),
            Ok(Some(Err(error))) => Err(error.into()),
            Err(_) => Err(AccessError::Silent {
                id: self.id.clone(),
            }),
        }
    }

    /// Finds out why a supervisor cannot be reached, once whoever ends it has finished.
    pub(crate) async fn not_running(&self) -> AccessError {
        self.not_running_within(LOCK_PATIENCE).await
    }

    /// Finds out why a supervisor has gone, once it has recorded that, within `patience`.
    pub(crate) async fn not_running_within(&self, patience: Duration) -> AccessError {
        let (store, id) = (self.store.clone(), self.id.clone());
        let looked = tokio::task::spawn_blocking(move || store.info_after_end(&id, patience))
            .await
            .expect("looking does not panic and is never cancelled");
        match looked {
            Ok(info) => AccessError::NotRunning {
                id: self.id.clone(),
                state: info.state,
                reason: info.reason,
            },
            Err(error) => error.into(),
        }
    }

    /// Asks the supervisor for something that needs nothing of the guest.
    pub(crate) async fn ask(
        &self,
        request: &SupervisorRequest,
    ) -> Result<SupervisorReply, AccessError> {
        let mut connection = self.connect(request).await?;
        match self.reply(&mut connection, ANSWER_PATIENCE).await {
            Ok(SupervisorReply::Refused(refusal)) => Err(self.refused(refusal)),
            Err(AccessError::ConnectionEnded) => Err(self.not_running().await),
            outcome => outcome,
        }
    }

    /// Says what a supervisor's refusal means: most are about the sandbox's state.
    fn refused(&self, refusal: Refusal) -> AccessError {
        match (refusal.code, self.store.info(&self.id)) {
            (RefusalCode::ShuttingDown, Ok(info)) => AccessError::NotRunning {
                id: self.id.clone(),
                state: info.state,
                reason: info.reason,
            },
            _ => AccessError::Refused(refusal),
        }
    }

    /// Returns the last lines of the guest's console, made printable; none when there is no log.
    pub(crate) fn console_tail(&self) -> Vec<String> {
        let Ok(directory) = self.store.existing(&self.id) else {
            return Vec::new();
        };
        tail_of(&directory.console_log())
    }
}

/// Returns the last lines of a log, however long it is.
pub(crate) fn tail_of(path: &std::path::Path) -> Vec<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};

    /// More than [`CONSOLE_TAIL_LINES`] lines of the longest that are kept.
    const MAX_BYTES: u64 = 32 * 1024;

    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut tail = Tail::new(CONSOLE_TAIL_LINES);
    tail.push(&read().unwrap_or_default());
    tail.lines()
}
