//! A sandbox as its user holds it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use smolvm_image::Progress;
use smolvm_protocol::control::{
    Forward, LeaseEvent, LeaseRequest, MachineStatus, Ready, StartFailure, StartFailureKind,
    SupervisorReply, SupervisorRequest,
};
use smolvm_protocol::{Frame, FrameCodec};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio_util::codec::Framed;

use crate::access::{Access, AccessError, Connection, tail_of};
use crate::custom::{self, CustomBootError};
use crate::disk;
use crate::plan::{self, PlanError};
use crate::process;
use crate::record::{RecordError, SandboxDir};
use crate::store::{OwnerLock, SandboxInfo, SandboxLock, Store, StoreError};
use crate::{
    EngineChoice, EnvError, ErrorKind, Installation, Lifetime, NetworksError, SandboxId,
    SandboxSpec, SandboxState, SecretGrant, SecretSpec, SecretsError,
};
use crate::{secrets, sys, text};

/// How long another process may take to start the sandbox: its own patience with an emulated
/// guest, and some.
const READY_PATIENCE: Duration = Duration::from_secs(150);

/// How long a supervisor may take, beyond the guest's grace, to end its machine.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

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
    /// Its secrets, or rules for its requests, are not legal or cannot be kept.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// It cannot be in the networks it asks for.
    #[error(transparent)]
    Networks(#[from] NetworksError),
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
            Self::Secrets(error) => error.kind(),
            Self::Networks(error) => error.kind(),
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
    /// It is paused and could not be resumed.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It runs, but its variables could not be set.
    #[error("set the sandbox's environment variables")]
    Environment(#[source] EnvError),
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
            Self::Access(error) => error.kind(),
            Self::Environment(error) => error.kind(),
            Self::Failed(failure) => match failure.kind {
                StartFailureKind::GuestPanicked => ErrorKind::GuestFailed,
                StartFailureKind::AgentSilent => ErrorKind::Timeout,
                StartFailureKind::Incompatible => ErrorKind::Unsupported,
                StartFailureKind::PortTaken => ErrorKind::Conflict,
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

/// What a start did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// It booted the machine.
    Booted(StartReport),
    /// It let the paused machine go on.
    Resumed,
    /// Nothing: the machine runs already, or another process was just starting it.
    AlreadyRunning,
}

impl Started {
    /// Returns how the boot went, if there was one.
    #[must_use]
    pub fn booted(self) -> Option<StartReport> {
        match self {
            Self::Booted(report) => Some(report),
            Self::Resumed | Self::AlreadyRunning => None,
        }
    }
}

/// A handle on one sandbox, for any number of tasks at once. Dropping the handle of a leased
/// sandbox that it created ends the sandbox.
#[derive(Debug)]
pub struct Sandbox {
    installation: Arc<Installation>,
    access: Access,
    ownership: Mutex<Ownership>,
}

/// What makes a sandbox end with this process. Guards start, release and delete against each
/// other; nothing else waits for it.
#[derive(Debug, Default)]
struct Ownership {
    /// Held by the creator of a leased sandbox, from its creation until it lets go.
    owner: Option<OwnerLock>,
    /// The connection to the supervisor of a leased sandbox that this handle started.
    lease: Option<Connection>,
    /// Variables to set once the guest has booted for the first time. They are secrets, and are
    /// written nowhere on the host.
    initial_env: BTreeMap<String, String>,
}

impl Sandbox {
    /// Creates a sandbox and its disk; starts nothing.
    ///
    /// # Errors
    ///
    /// When the name is taken, the image unknown, or the disk cannot be made. Nothing is left.
    pub async fn create(
        installation: Arc<Installation>,
        spec: SandboxSpec,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, CreateError> {
        Self::create_with_secrets(installation, spec, Vec::new(), progress).await
    }

    /// Creates a sandbox as [`Sandbox::create`] does, with secrets that its guest never has.
    ///
    /// # Errors
    ///
    /// As those of [`Sandbox::create`], and when the secrets cannot be had together.
    pub async fn create_with_secrets(
        installation: Arc<Installation>,
        mut spec: SandboxSpec,
        secrets: Vec<SecretSpec>,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, CreateError> {
        spec.networks.check_member(&spec.id)?;
        secrets::check(&spec, &secrets)?;
        spec.secrets = secrets.iter().map(SecretGrant::of).collect();
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
        let owner = tokio::task::spawn_blocking(move || {
            let (lock, owner) = making.create(&spec, |directory| {
                disk::make(
                    &spec,
                    directory,
                    &making.kept_disk(&spec.id),
                    &cache_dir,
                    &*progress,
                )?;
                Ok::<_, CreateError>(secrets::keep(&spec, &secrets, directory)?)
            })?;
            // The sandbox has it now; until it was complete, the disk had both names.
            making.forget_kept_disk(&spec.id, lock.directory());
            Ok::<_, CreateError>(owner)
        })
        .await
        .expect("making a directory does not panic and is never cancelled")?;
        Ok(Self {
            installation,
            access: Access { store, id },
            ownership: Mutex::new(Ownership {
                owner,
                ..Ownership::default()
            }),
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
            access: Access { store, id },
            ownership: Mutex::default(),
        })
    }

    /// Returns the sandbox's name.
    #[must_use]
    pub const fn id(&self) -> &SandboxId {
        &self.access.id
    }

    /// Returns what is known of the sandbox.
    ///
    /// # Errors
    ///
    /// When it is gone or its description damaged.
    pub fn info(&self) -> Result<SandboxInfo, StoreError> {
        self.access.store.info(&self.access.id)
    }

    pub(crate) const fn access(&self) -> &Access {
        &self.access
    }

    /// Returns whether the sandbox ends when this handle does.
    pub async fn is_owned(&self) -> bool {
        let ownership = self.ownership.lock().await;
        ownership.owner.is_some() || ownership.lease.is_some()
    }

    /// Has these variables set in the guest when it is started next, before [`Sandbox::start`]
    /// returns.
    pub async fn set_initial_env(&self, variables: BTreeMap<String, String>) {
        self.ownership.lock().await.initial_env = variables;
    }

    /// Starts the machine and waits until the agent has answered. A paused one goes on; when
    /// another process is just starting it, waits for that.
    ///
    /// # Errors
    ///
    /// When something that is needed is missing, or the guest does not come up. A leased sandbox
    /// is then removed; a kept one is in state `error`.
    pub async fn start(&self, progress: Arc<dyn Progress>) -> Result<Started, StartError> {
        self.start_within(progress, None).await
    }

    /// Starts the machine as [`Sandbox::start`] does, and gives the guest `limit` to come up,
    /// where that is less than its engine allows. What has to be prepared first does not count.
    ///
    /// # Errors
    ///
    /// As those of [`Sandbox::start`].
    pub async fn start_within(
        &self,
        progress: Arc<dyn Progress>,
        limit: Option<Duration>,
    ) -> Result<Started, StartError> {
        let mut ownership = self.ownership.lock().await;
        match self.info()?.state {
            SandboxState::Paused => {
                self.resume().await?;
                return Ok(Started::Resumed);
            }
            SandboxState::Starting | SandboxState::Running if self.await_ready().await => {
                return Ok(Started::AlreadyRunning);
            }
            // A stop that is under way gives the lock back when it is done.
            _ => {}
        }
        let lock = self.access.store.lock(self.id())?;
        let directory = lock.directory().clone();
        let (spec, _) = directory.read_spec()?;
        let outcome = self
            .start_locked(&mut ownership, &spec, lock, progress, limit)
            .await;
        if outcome.is_err() && spec.lifetime == Lifetime::Leased {
            ownership.lease = None;
            self.remove_failed();
        }
        let report = outcome?;
        let mut variables = ownership.initial_env.clone();
        variables.extend(secrets::placeholders(&spec));
        if !variables.is_empty() {
            self.set_env(&variables, true)
                .await
                .map_err(StartError::Environment)?;
            ownership.initial_env.clear();
        }
        Ok(Started::Booted(report))
    }

    /// Waits until whoever starts the sandbox has started it. Returns whether it runs then.
    async fn await_ready(&self) -> bool {
        let request = SupervisorRequest::AwaitReady;
        let Ok(mut connection) = self.access.connect(&request).await else {
            return false;
        };
        let reply = self.access.reply(&mut connection, READY_PATIENCE).await;
        matches!(reply, Ok(SupervisorReply::Done))
    }

    async fn start_locked(
        &self,
        ownership: &mut Ownership,
        spec: &SandboxSpec,
        lock: SandboxLock,
        progress: Arc<dyn Progress>,
        limit: Option<Duration>,
    ) -> Result<StartReport, StartError> {
        let begun = Instant::now();
        let directory = lock.directory().clone();
        let mut plan = plan::resolve(spec, &directory, &self.installation, progress).await?;
        if let Some(limit) = limit {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            plan.start_timeout_ms = plan.start_timeout_ms.min(limit_ms);
        }
        plan.save(&directory)?;
        let preparation = begun.elapsed();
        let spawn_error = |source| StartError::Spawn {
            program: self.installation.smolvm.clone(),
            source,
        };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(spawn_error)?;
        ours.set_nonblocking(true).map_err(spawn_error)?;
        let ours = UnixStream::from_std(ours).map_err(spawn_error)?;
        process::spawn_supervisor(&self.installation, spec, &lock, OwnedFd::from(theirs))
            .map_err(spawn_error)?;
        // From here on the supervisor alone holds the lock.
        drop(lock);
        let lease = Framed::new(ours, FrameCodec);
        let ready = match spec.lifetime {
            // Kept from now on, so that whoever gives the start up can still delete.
            Lifetime::Leased => wait_until_ready(ownership.lease.insert(lease), &directory).await?,
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
        let store = &self.access.store;
        if let Err(error) = store.lock(self.id()).and_then(|lock| store.remove(lock)) {
            tracing::debug!(error = %text::chain(&error), "failed sandbox not removed");
        }
    }

    /// Lets go of a leased sandbox: one that runs goes on when this handle is dropped, and goes
    /// when it is stopped.
    ///
    /// # Errors
    ///
    /// When the supervisor cannot be told.
    pub async fn release(&self) -> Result<(), AccessError> {
        let mut ownership = self.ownership.lock().await;
        ownership.owner = None;
        if let Some(mut lease) = ownership.lease.take() {
            lease.send(Frame::message(&LeaseRequest::Release)?).await?;
        }
        Ok(())
    }

    /// Lets go of what a process inherited by fork(2), which still belongs to its parent: without
    /// this, the sandboxes of a parent that died would live as long as the child does.
    ///
    /// Only for the child, which has no other threads; a lock that one of the parent's held at
    /// that moment stays held, and what it guards is then left alone.
    pub fn forget_after_fork(&self) {
        if let Ok(mut ownership) = self.ownership.try_lock() {
            // Closed and not shut down: the parent's copies stay as they are. The runtime that
            // would be told of the closing is the parent's, and is gone.
            if let Some(lease) = ownership.lease.take() {
                sys::close_in_child(lease.get_ref().as_fd());
                std::mem::forget(lease);
            }
            ownership.owner = None;
        }
    }

    /// Returns how the machine is.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotRunning`], or a supervisor that does not answer.
    pub async fn status(&self) -> Result<MachineStatus, AccessError> {
        match self.access.ask(&SupervisorRequest::Status).await? {
            SupervisorReply::Status(status) => Ok(status),
            _ => Err(AccessError::Unexpected),
        }
    }

    /// Holds the machine still; its memory stays, and its forwards are closed until it goes on.
    /// Deadlines go on.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotRunning`], or a supervisor that does not answer.
    pub async fn pause(&self) -> Result<(), AccessError> {
        self.order(&SupervisorRequest::Pause).await
    }

    /// Lets a paused machine go on, with the forwards it had.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotPaused`] or [`AccessError::NotRunning`], a port that has been taken
    /// meanwhile, or a supervisor that does not answer.
    pub async fn resume(&self) -> Result<(), AccessError> {
        match self.order(&SupervisorRequest::Resume).await {
            Err(AccessError::NotRunning { id, state, .. }) if state.is_active() => {
                Err(AccessError::NotPaused { id, state })
            }
            outcome => outcome,
        }
    }

    /// Makes a port of the guest's loopback reachable on the host's loopback, until it is closed
    /// or the machine ends. The same pair again is the same forward.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotRunning`], or no port is free.
    pub async fn forward(
        &self,
        guest_port: u16,
        host_port: Option<u16>,
    ) -> Result<Forward, AccessError> {
        self.forward_for(guest_port, host_port, false).await
    }

    /// Like [`Sandbox::forward`], but only processes of the user who started the sandbox, and of
    /// root, may connect. Others find that the connection is closed at once.
    ///
    /// # Errors
    ///
    /// Those of [`Sandbox::forward`].
    pub async fn forward_to_owner(
        &self,
        guest_port: u16,
        host_port: Option<u16>,
    ) -> Result<Forward, AccessError> {
        self.forward_for(guest_port, host_port, true).await
    }

    async fn forward_for(
        &self,
        guest_port: u16,
        host_port: Option<u16>,
        is_owner_only: bool,
    ) -> Result<Forward, AccessError> {
        let request = SupervisorRequest::Forward {
            guest_port,
            host_port,
            is_owner_only,
        };
        match self.access.ask(&request).await? {
            SupervisorReply::Forwarded(forward) => Ok(forward),
            _ => Err(AccessError::Unexpected),
        }
    }

    /// Closes a forward and its connections.
    ///
    /// # Errors
    ///
    /// When there is no such forward, or the sandbox does not run.
    pub async fn unforward(&self, forward: Forward) -> Result<(), AccessError> {
        self.order(&SupervisorRequest::Unforward(forward)).await
    }

    /// Returns the forwards there are.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotRunning`], or a supervisor that does not answer.
    pub async fn forwards(&self) -> Result<Vec<Forward>, AccessError> {
        match self.access.ask(&SupervisorRequest::Forwards).await? {
            SupervisorReply::Forwards(forwards) => Ok(forwards),
            _ => Err(AccessError::Unexpected),
        }
    }

    async fn order(&self, request: &SupervisorRequest) -> Result<(), AccessError> {
        match self.access.ask(request).await? {
            SupervisorReply::Done => Ok(()),
            _ => Err(AccessError::Unexpected),
        }
    }

    /// Has the guest do what it does [at its end](crate::AtEnd), shuts it down and waits until the
    /// machine is gone. The disk is kept.
    ///
    /// After `grace` for the shutdown the machine is killed; a `grace` of zero kills at once. A sandbox that is
    /// not running is left as it is.
    ///
    /// # Errors
    ///
    /// When the supervisor does not answer.
    pub async fn stop(&self, grace: Duration) -> Result<(), AccessError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let request = SupervisorRequest::Stop { grace_ms };
        let at_end = self.access.store.info(self.id())?.spec.at_end;
        let patience_ms = at_end.map_or(0, |at_end| at_end.patience_ms);
        let patience = grace + Duration::from_millis(patience_ms) + STOP_PATIENCE;
        match self.end(&request, patience).await {
            Err(AccessError::NotRunning { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Kills the machine, if there is one, and removes the sandbox with all its files.
    ///
    /// # Errors
    ///
    /// When it does not exist, another command is changing it, or a file cannot be removed.
    pub async fn delete(&self) -> Result<(), AccessError> {
        let mut ownership = self.ownership.lock().await;
        if let Some(lease) = ownership.lease.take() {
            return self.give_back(lease).await;
        }
        match self.end(&SupervisorRequest::Delete, STOP_PATIENCE).await {
            // What cannot be read can still be removed; the lock below tells whether it is used.
            Err(AccessError::NotRunning { .. } | AccessError::Store(StoreError::Record(_))) => {}
            outcome => return outcome,
        }
        let store = &self.access.store;
        Ok(store.remove(store.lock(self.id())?)?)
    }

    /// Ends the lease and waits until the supervisor has removed everything, which is when it
    /// closes its end.
    async fn give_back(&self, mut lease: Connection) -> Result<(), AccessError> {
        // A supervisor that has gone already needs no telling.
        let _gone = lease.get_mut().shutdown().await;
        let closed = async { while let Some(Ok(_)) = lease.next().await {} };
        if tokio::time::timeout(STOP_PATIENCE, closed).await.is_err() {
            return Err(AccessError::Silent {
                id: self.id().clone(),
            });
        }
        // Left only by a supervisor that died before it was done.
        match self.access.store.lock(self.id()) {
            Ok(lock) => Ok(self.access.store.remove(lock)?),
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn end(
        &self,
        request: &SupervisorRequest,
        patience: Duration,
    ) -> Result<(), AccessError> {
        let mut connection = self.access.connect(request).await?;
        match self.access.reply(&mut connection, patience).await {
            Ok(SupervisorReply::Stopped) => Ok(()),
            Ok(SupervisorReply::Refused(refusal)) => Err(AccessError::Refused(refusal)),
            Ok(_) => Err(AccessError::Unexpected),
            // It was ending already, for another reason or for another client.
            Err(AccessError::ConnectionEnded) => Err(self.access.not_running().await),
            Err(error) => Err(error),
        }
    }

    /// Returns the last lines of the guest's console, made printable; none when there is no log.
    #[must_use]
    pub fn console_tail(&self) -> Vec<String> {
        self.access.console_tail()
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
