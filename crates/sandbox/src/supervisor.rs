//! The owner of one running sandbox.
//!
//! ```text
//!   lease ----------+                       +--> state.json
//!   client sockets -+--> [ one task: the driver ] --> machine
//!   machine's end --+                       +--> agent session
//!   signals, timers +
//! ```
//!
//! The driver is one `select!` loop ([`driver`]): everything that happens to the sandbox passes
//! through it in one order, and it alone changes the state. [`ending`] says how a machine ended.
//! Other tasks only carry bytes: [`lease`] speaks to the creating process, [`clients`] relays
//! operations, [`forwards`] exposes ports ([`peer_user`]: to whom), [`peers`] lets other members of
//! its networks in, [`console`] keeps what the guest prints, [`causes`] asks the agent what causes
//! events of the network, [`at_end`] has the guest do what is done before it is shut down. [`log`]
//! keeps what the supervisor says of itself.
//!
//! A supervisor is a value, not a process: [`supervise`] runs until its sandbox has ended.

mod at_end;
mod causes;
mod clients;
mod console;
mod deadlines;
mod driver;
mod ending;
mod forwards;
mod lease;
mod log;
mod network;
mod peer_user;
mod peers;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use smolvm_protocol::control::{LeaseEvent, StartFailure, StartFailureKind};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::engine::{BootError, BootPlan, Machine, Origin, engine_of};
use crate::plan::SupervisorPlan;
use crate::record::{RecordError, SandboxDir, StateFile};
use crate::state::{SandboxState, Transition};
use crate::store::{SandboxLock, Store, StoreError};
use crate::{ErrorKind, SecretsError, secrets, socket, text};
use driver::Driver;
pub use forwards::BindError;
use forwards::Forwards;
use lease::Lease;
pub use log::SupervisorLog;
use network::Network;

/// Why a supervisor could not do its work at all.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The sandbox's description is unusable.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The sandbox's files are unusable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The socket for clients could not be made.
    #[error("listen for clients")]
    Listen(#[source] io::Error),
    /// The signals of this process could not be received.
    #[error("receive signals")]
    Signals(#[source] io::Error),
    /// The gateway of the sandbox's network could not be started.
    #[error("start the network's log")]
    Network(#[source] io::Error),
    /// The sandbox's secrets cannot be used.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The machine could not be started.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A port that the sandbox exposes cannot be.
    #[error(transparent)]
    Forwards(#[from] BindError),
}

impl SuperviseError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Record(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Secrets(error) => error.kind(),
            Self::Forwards(BindError::Taken { .. }) => ErrorKind::Conflict,
            Self::Listen(_)
            | Self::Network(_)
            | Self::Signals(_)
            | Self::Boot(_)
            | Self::Forwards(_) => ErrorKind::Host,
        }
    }
}

/// What a supervisor has once its machine runs.
struct Started {
    plan: SupervisorPlan,
    state: StateFile,
    listener: UnixListener,
    terminate: Signal,
    forwards: Forwards,
    network: Option<Network>,
    machine: Box<dyn Machine>,
}

/// Runs the sandbox whose lock is `lock`, from its start to its end.
///
/// `lease` is the connection to the process that started this supervisor.
///
/// # Errors
///
/// When the machine could not even be started; the lease's holder has then been told.
pub async fn supervise(inherited: Inherited, lease: UnixStream) -> Result<(), SuperviseError> {
    let Inherited { store, lock } = inherited;
    let lease = Lease::start(lease);
    match start(lock.directory()).await {
        Ok(started) => {
            let driver = Driver::new(lock.directory().clone(), started, lease);
            driver.drive().await.conclude(&store, lock).await
        }
        Err(error) => {
            mark_failed(lock.directory(), &error);
            lease.send(LeaseEvent::Failed(failure_before_boot(&error)));
            lease.finish().await;
            Err(error)
        }
    }
}

/// The sandbox that a supervisor was started for.
#[derive(Debug)]
pub struct Inherited {
    store: Store,
    lock: SandboxLock,
}

impl Inherited {
    /// Takes over the sandbox in `directory`, whose open and locked lock file is `lock`.
    ///
    /// # Errors
    ///
    /// When `directory` is not one of a store.
    pub fn new(directory: PathBuf, lock: File) -> Result<Self, StoreError> {
        let store = Store::containing(&directory)?;
        Ok(Self {
            store,
            lock: SandboxLock::inherited(lock, SandboxDir::new(directory)),
        })
    }
}

async fn start(directory: &SandboxDir) -> Result<Started, SuperviseError> {
    let mut plan = SupervisorPlan::load(directory)?;
    let mut state = directory.read_state()?.after(Transition::Start, None)?;
    state.engine = Some(plan.boot.engine.describe());
    directory.write_state(&state)?;
    let terminate = signal(SignalKind::terminate()).map_err(SuperviseError::Signals)?;
    let listener =
        socket::listen(directory, &directory.socket()).map_err(SuperviseError::Listen)?;
    let mut forwards = Forwards::new(&plan.port_forwards);
    forwards.bind().await?;
    let mut machine = boot(&mut plan.boot).await?;
    let network = start_network(&plan, &mut *machine, directory)?;
    Ok(Started {
        plan,
        state,
        listener,
        terminate,
        forwards,
        network,
        machine,
    })
}

/// Starts the machine. One whose recording was removed since it was planned boots its kernel: its
/// disk is as after a power cut.
async fn boot(plan: &mut BootPlan) -> Result<Box<dyn Machine>, BootError> {
    let engine = engine_of(&plan.engine);
    match engine.boot(plan).await {
        Err(BootError::Recording { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            plan.origin = Origin::Kernel;
            engine.boot(plan).await
        }
        outcome => outcome,
    }
}

/// Starts the gateway of a machine that has a network device.
fn start_network(
    plan: &SupervisorPlan,
    machine: &mut dyn Machine,
    directory: &SandboxDir,
) -> Result<Option<Network>, SuperviseError> {
    let (Some(device), Some(link)) = (plan.boot.network, machine.take_network()) else {
        return Ok(None);
    };
    let (spec, _) = directory.read_spec()?;
    let content = secrets::content(&spec, directory)?;
    Network::start(link, device, &spec, directory, content)
        .map(Some)
        .map_err(SuperviseError::Network)
}

fn mark_failed(directory: &SandboxDir, error: &SuperviseError) {
    let mark = || -> Result<(), RecordError> {
        let state = directory.read_state()?;
        if state.state == SandboxState::Starting {
            let failed = state.after(Transition::Fail, Some(&text::chain(error)))?;
            directory.write_state(&failed)?;
        }
        Ok(())
    };
    if let Err(error) = mark() {
        tracing::error!(error = %text::chain(&error), "failure not recorded");
    }
}

fn failure_before_boot(error: &SuperviseError) -> StartFailure {
    let kind = match error {
        SuperviseError::Boot(BootError::Spawn { .. }) => StartFailureKind::VmmMissing,
        SuperviseError::Record(_)
        | SuperviseError::Store(_)
        | SuperviseError::Boot(BootError::Recording { .. }) => StartFailureKind::Files,
        SuperviseError::Forwards(BindError::Taken { .. }) => StartFailureKind::PortTaken,
        SuperviseError::Forwards(BindError::Refused { .. })
        | SuperviseError::Boot(BootError::Socket(_) | BootError::Refused { .. })
        | SuperviseError::Listen(_)
        | SuperviseError::Network(_)
        | SuperviseError::Secrets(_)
        | SuperviseError::Signals(_) => StartFailureKind::Host,
    };
    StartFailure {
        kind,
        message: text::chain(error),
        console_tail: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
