//! A sandbox as its user holds it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use smolvm_image::Progress;
use smolvm_protocol::control::{
    LeaseEvent, LeaseRequest, MachineStatus, Ready, StartFailure, StartFailureKind,
    SupervisorReply, SupervisorRequest,
};
use smolvm_protocol::message::Refusal;
use smolvm_protocol::{Frame, FrameCodec, FrameError};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio_util::codec::Framed;

use crate::custom::{self, CustomBootError};
use crate::disk;
use crate::plan::{self, PlanError};
use crate::process;
use crate::record::{RecordError, SandboxDir};
use crate::store::{SandboxInfo, SandboxLock, Store, StoreError};
use crate::text::{self, Tail};
use crate::{
    EngineChoice, ErrorKind, Installation, Lifetime, SandboxId, SandboxSpec, SandboxState, socket,
};

/// A connection to a supervisor that speaks in frames.
pub(crate) type Connection = Framed<UnixStream, FrameCodec>;

/// How long a supervisor may take for an answer that needs nothing of the guest.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a supervisor may take, beyond the guest's grace, to end its machine.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Lines of the console shown with a failure.
const CONSOLE_TAIL_LINES: usize = 60;

/// Why a sandbox could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// No image has this name.
    #[error("unknown image '{image}'")]
    UnknownImage {
        /// The name given.
        image: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cache cannot be used.
    #[error("open the cache")]
    Cache(#[from] smolvm_image::CacheError),
    /// The writable disk could not be made.
    #[error("make the sandbox's disk")]
    Overlay(#[from] smolvm_image::OverlayError),
    /// A file of the user's own cannot be booted from.
    #[error(transparent)]
    Custom(#[from] CustomBootError),
    /// The disk that the last sandbox of this name left is not of the size asked for.
    #[error(
        "the kept disk of '{id}' has {kept_mib} MiB, not {wanted_mib} MiB; ask for its size, or \
         remove {}", path.display()
    )]
    KeptDiskSize {
        /// The sandbox.
        id: SandboxId,
        /// Size of the kept disk.
        kept_mib: u64,
        /// Size asked for.
        wanted_mib: u32,
        /// The kept disk.
        path: PathBuf,
    },
    /// The writable disk could not be copied.
    #[error("copy the sandbox's disk")]
    Copy(#[from] smolvm_image::CopyError),
}

impl CreateError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownImage { .. } | Self::Custom(_) => ErrorKind::InvalidInput,
            Self::KeptDiskSize { .. } => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
            Self::Cache(_) | Self::Overlay(_) | Self::Copy(_) => ErrorKind::Host,
        }
    }
}

/// Why a sandbox could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox's description is unusable.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What it needs could not be prepared.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Its supervisor could not be started.
    #[error("start the supervisor {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Its supervisor ended without a word.
    #[error(
        "start the sandbox: its supervisor ended unexpectedly{}",
        last_words(log)
    )]
    SupervisorDied {
        /// The last lines of the supervisor's log.
        log: Vec<String>,
    },
    /// Its supervisor could not make it ready.
    #[error("start the sandbox: {}", .0.message)]
    Failed(StartFailure),
}

fn last_words(log: &[String]) -> String {
    log.last()
        .map(|line| format!(": {line}"))
        .unwrap_or_default()
}

impl StartError {
    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Record(error) => error.kind(),
            Self::Plan(error) => error.kind(),
            Self::Spawn { .. } | Self::SupervisorDied { .. } => ErrorKind::Host,
            Self::Failed(failure) => match failure.kind {
                StartFailureKind::GuestPanicked => ErrorKind::GuestFailed,
                StartFailureKind::AgentSilent => ErrorKind::Timeout,
                StartFailureKind::Incompatible => ErrorKind::Unsupported,
                StartFailureKind::VmmMissing
                | StartFailureKind::VmmFailed
                | StartFailureKind::Files
                | StartFailureKind::Host => ErrorKind::Host,
            },
        }
    }

    /// Returns the last lines of the guest's console, where it had come that far.
    #[must_use]
    pub fn console_tail(&self) -> &[String] {
        match self {
            Self::Failed(failure) => &failure.console_tail,
            _ => &[],
        }
    }
}

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
            Self::NotRunning { .. } => ErrorKind::Conflict,
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
                Code::AlreadyExists | Code::NotEmpty | Code::ShuttingDown => ErrorKind::Conflict,
                Code::NoSpace | Code::ConnectionRefused | Code::ResourcesExhausted | Code::Io => {
                    ErrorKind::GuestFailed
                }
            },
        }
    }
}

/// How a start went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartReport {
    /// The engine with its accelerator, such as `qemu (software emulation)`.
    pub engine: String,
    /// What was known once the agent had answered.
    pub ready: Ready,
    /// Time to prepare kernel, images and plan.
    pub preparation: Duration,
    /// Time from the supervisor's start to the agent's answer.
    pub boot: Duration,
}

/// A handle on one sandbox. Dropping the handle of a leased sandbox that it created ends it.
#[derive(Debug)]
pub struct Sandbox {
    installation: Arc<Installation>,
    store: Store,
    id: SandboxId,
    /// The lock, from creation to the first start.
    lock: Option<SandboxLock>,
    /// The lease, from the start on, of a sandbox that lives as long as this handle.
    lease: Option<Connection>,
}

impl Sandbox {
    /// Creates a sandbox and its disk; starts nothing.
    ///
    /// # Errors
    ///
    /// When the name is taken, the image unknown, or the disk cannot be made. Nothing is left.
    pub async fn create(
        installation: Arc<Installation>,
        mut spec: SandboxSpec,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, CreateError> {
        spec.custom = spec.custom.as_ref().map(custom::checked).transpose()?;
        let store = Store::open(&installation.data_dir)?;
        let id = spec.id.clone();
        let known = smolvm_image::known_images();
        if spec.engine != EngineChoice::Fake && !known.contains(&spec.image.as_str()) {
            return Err(CreateError::UnknownImage {
                image: spec.image,
                known,
            });
        }
        let (making, cache_dir) = (store.clone(), installation.cache_dir.clone());
        let lock = tokio::task::spawn_blocking(move || {
            let lock = making.create(&spec, |directory| {
                disk::make(
                    &spec,
                    directory,
                    &making.kept_disk(&spec.id),
                    &cache_dir,
                    &*progress,
                )
            })?;
            // The sandbox has it now; until it was complete, the disk had both names.
            making.forget_kept_disk(&spec.id, lock.directory());
            Ok::<_, CreateError>(lock)
        })
        .await
        .expect("making a directory does not panic and is never cancelled")?;
        Ok(Self {
            installation,
            store,
            id,
            lock: Some(lock),
            lease: None,
        })
    }

    /// Returns a handle on the existing sandbox `id`.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`].
    pub fn open(installation: Arc<Installation>, id: SandboxId) -> Result<Self, StoreError> {
        let store = Store::open(&installation.data_dir)?;
        store.existing(&id)?;
        Ok(Self {
            installation,
            store,
            id,
            lock: None,
            lease: None,
        })
    }

    /// Returns the sandbox's name.
    #[must_use]
    pub const fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Returns what is known of the sandbox.
    ///
    /// # Errors
    ///
    /// When it is gone or its description damaged.
    pub fn info(&self) -> Result<SandboxInfo, StoreError> {
        self.store.info(&self.id)
    }

    /// Starts the machine and waits until the agent has answered.
    ///
    /// # Errors
    ///
    /// When something that is needed is missing, or the guest does not come up. A leased sandbox
    /// is then removed; a kept one is in state `error`.
    pub async fn start(&mut self, progress: Arc<dyn Progress>) -> Result<StartReport, StartError> {
        let begun = Instant::now();
        let lock = match self.lock.take() {
            Some(lock) => lock,
            None => self.store.lock(&self.id)?,
        };
        let directory = lock.directory().clone();
        let (spec, _) = directory.read_spec()?;
        let outcome = self.start_locked(&spec, lock, progress, begun).await;
        if outcome.is_err() && spec.lifetime == Lifetime::Leased {
            self.lease = None;
            self.remove_failed();
        }
        outcome
    }

    async fn start_locked(
        &mut self,
        spec: &SandboxSpec,
        lock: SandboxLock,
        progress: Arc<dyn Progress>,
        begun: Instant,
    ) -> Result<StartReport, StartError> {
        let directory = lock.directory().clone();
        let plan = plan::resolve(spec, &directory, &self.installation, progress).await?;
        plan.save(&directory)?;
        let preparation = begun.elapsed();
        let spawn_error = |source| StartError::Spawn {
            program: self.installation.smolvm.clone(),
            source,
        };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(spawn_error)?;
        ours.set_nonblocking(true).map_err(spawn_error)?;
        let ours = UnixStream::from_std(ours).map_err(spawn_error)?;
        process::spawn_supervisor(&self.installation, &lock, OwnedFd::from(theirs))
            .map_err(spawn_error)?;
        // From here on the supervisor alone holds the lock.
        drop(lock);
        let lease = Framed::new(ours, FrameCodec);
        let ready = match spec.lifetime {
            // Kept from now on, so that whoever gives the start up can still delete.
            Lifetime::Leased => wait_until_ready(self.lease.insert(lease), &directory).await?,
            Lifetime::Persistent => wait_until_ready(&mut { lease }, &directory).await?,
        };
        Ok(StartReport {
            engine: plan.boot.engine.describe(),
            ready,
            preparation,
            boot: begun.elapsed().saturating_sub(preparation),
        })
    }

    fn remove_failed(&self) {
        // Whatever is left here, the next command reaps.
        if let Err(error) = self
            .store
            .lock(&self.id)
            .and_then(|lock| self.store.remove(lock))
        {
            tracing::debug!(error = %text::chain(&error), "failed sandbox not removed");
        }
    }

    /// Lets go of a leased sandbox, which then runs on when this handle is dropped.
    ///
    /// # Errors
    ///
    /// When the supervisor cannot be told.
    pub async fn release(&mut self) -> Result<(), AccessError> {
        if let Some(mut lease) = self.lease.take() {
            lease.send(Frame::message(&LeaseRequest::Release)?).await?;
        }
        Ok(())
    }

    /// Returns how the machine is.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotRunning`], or a supervisor that does not answer.
    pub async fn status(&self) -> Result<MachineStatus, AccessError> {
        let mut connection = self.connect(&SupervisorRequest::Status).await?;
        match self.reply(&mut connection, ANSWER_PATIENCE).await? {
            SupervisorReply::Status(status) => Ok(status),
            SupervisorReply::Refused(refusal) => Err(AccessError::Refused(refusal)),
            _ => Err(AccessError::Unexpected),
        }
    }

    /// Shuts the guest down and waits until the machine is gone. The disk is kept.
    ///
    /// After `grace` the machine is killed; a `grace` of zero kills at once. A sandbox that is
    /// not running is left as it is.
    ///
    /// # Errors
    ///
    /// When the supervisor does not answer.
    pub async fn stop(&self, grace: Duration) -> Result<(), AccessError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let request = SupervisorRequest::Stop { grace_ms };
        match self.end(&request, grace + STOP_PATIENCE).await {
            Err(AccessError::NotRunning { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Kills the machine, if there is one, and removes the sandbox with all its files.
    ///
    /// # Errors
    ///
    /// When it does not exist, another command is changing it, or a file cannot be removed.
    pub async fn delete(mut self) -> Result<(), AccessError> {
        if let Some(lease) = self.lease.take() {
            return self.give_back(lease).await;
        }
        match self.end(&SupervisorRequest::Delete, STOP_PATIENCE).await {
            // What cannot be read can still be removed; the lock below tells whether it is used.
            Err(AccessError::NotRunning { .. } | AccessError::Store(StoreError::Record(_))) => {}
            outcome => return outcome,
        }
        let lock = match self.lock.take() {
            Some(lock) => lock,
            None => self.store.lock(&self.id)?,
        };
        Ok(self.store.remove(lock)?)
    }

    /// Ends the lease and waits until the supervisor has removed everything, which is when it
    /// closes its end.
    async fn give_back(&self, mut lease: Connection) -> Result<(), AccessError> {
        // A supervisor that has gone already needs no telling.
        let _gone = lease.get_mut().shutdown().await;
        let closed = async { while let Some(Ok(_)) = lease.next().await {} };
        if tokio::time::timeout(STOP_PATIENCE, closed).await.is_err() {
            return Err(AccessError::Silent {
                id: self.id.clone(),
            });
        }
        // Left only by a supervisor that died before it was done.
        match self.store.lock(&self.id) {
            Ok(lock) => Ok(self.store.remove(lock)?),
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn end(
        &self,
        request: &SupervisorRequest,
        patience: Duration,
    ) -> Result<(), AccessError> {
        let mut connection = self.connect(request).await?;
        match self.reply(&mut connection, patience).await {
            Ok(SupervisorReply::Stopped) => Ok(()),
            Ok(SupervisorReply::Refused(refusal)) => Err(AccessError::Refused(refusal)),
            Ok(_) => Err(AccessError::Unexpected),
            // It was ending already, for another reason or for another client.
            Err(AccessError::ConnectionEnded) => Err(self.not_running().await),
            Err(error) => Err(error),
        }
    }

    /// Connects to the supervisor and sends `request`.
    pub(crate) async fn connect(
        &self,
        request: &SupervisorRequest,
    ) -> Result<Connection, AccessError> {
        let directory = self.store.existing(&self.id)?;
        let Ok(stream) = socket::connect(&directory).await else {
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
            Ok(SupervisorReply::Refused(refusal)) => Err(AccessError::Refused(refusal)),
            Ok(_) => Err(AccessError::Unexpected),
            Err(AccessError::ConnectionEnded) => Err(self.not_running().await),
            Err(error) => Err(error),
        }
    }

    async fn reply(
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
        let (store, id) = (self.store.clone(), self.id.clone());
        let held = self.lock.is_some();
        let looked = tokio::task::spawn_blocking(move || {
            // The supervisor gives the lock back once it has recorded the end.
            let _recorded = if held { None } else { Some(store.lock(&id)?) };
            store.info(&id)
        })
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

    /// Returns the last lines of the guest's console, made printable; none when there is no log.
    #[must_use]
    pub fn console_tail(&self) -> Vec<String> {
        let Ok(directory) = self.store.existing(&self.id) else {
            return Vec::new();
        };
        tail_of(&directory.console_log())
    }
}

async fn wait_until_ready(
    lease: &mut Connection,
    directory: &SandboxDir,
) -> Result<Ready, StartError> {
    if let Some(Ok(frame)) = lease.next().await {
        match frame.parse::<LeaseEvent>() {
            Ok(LeaseEvent::Ready(ready)) => return Ok(ready),
            Ok(LeaseEvent::Failed(failure)) => return Err(StartError::Failed(failure)),
            Ok(LeaseEvent::Ended(_)) | Err(_) => {}
        }
    }
    Err(StartError::SupervisorDied {
        log: tail_of(&directory.supervisor_log()),
    })
}

/// Returns the last lines of a log, however long it is.
fn tail_of(path: &std::path::Path) -> Vec<String> {
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
