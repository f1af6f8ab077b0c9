//! The owner of one running sandbox.
//!
//! ```text
//!   lease ----------+                       +--> state.json
//!   client sockets -+--> [ one task: the driver ] --> machine
//!   machine's end --+                       +--> agent session
//!   signals, timers +
//! ```
//!
//! The driver is one `select!` loop: everything that happens to the sandbox passes through it in
//! one order, and it alone changes the state. Other tasks only carry bytes: [`lease`] speaks to
//! the creating process, [`clients`] relays operations, [`console`] keeps what the guest prints.
//!
//! A supervisor is a value, not a process: [`supervise`] runs until its sandbox has ended.

mod clients;
mod console;
mod lease;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use smolvm_protocol::control::{
    LeaseEvent, MachineEnd, MachineEndKind, MachineStatus, Ready, StartFailure, StartFailureKind,
    SupervisorReply, SupervisorRequest,
};
use smolvm_protocol::message::{AgentHello, Refusal, RefusalCode};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{BootError, Machine, MachineExit, engine_of};
use crate::multiplexer::{AgentSession, SessionError};
use crate::plan::SupervisorPlan;
use crate::record::{RecordError, SandboxDir, StateFile};
use crate::socket;
use crate::state::{SandboxState, Transition};
use crate::store::{SandboxLock, Store, StoreError, remove_if_there};
use crate::{ErrorKind, Lifetime, text};
use clients::{Client, Clients, Connection};
use console::ConsoleTail;
use lease::{Lease, LeaseNotice};

/// Milliseconds a guest has to shut down when the host does.
const HOST_SHUTDOWN_GRACE_MS: u64 = 5_000;

/// How long a machine may take to end after its connection to the agent did.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(1);

/// How long a killed machine may take to end before it is killed again.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Longest release of a kernel that is believed, in characters; Linux has 64 (utsname.h).
const MAX_RELEASE_CHARS: usize = 100;

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
    /// The machine could not be started.
    #[error(transparent)]
    Boot(#[from] BootError),
}

impl SuperviseError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Record(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Listen(_) | Self::Signals(_) | Self::Boot(_) => ErrorKind::Host,
        }
    }
}

/// A stop under way: who waits for it, and when patience ends.
struct Stopping {
    deadline: Instant,
    waiting: Vec<Connection>,
    is_deleting: bool,
}

/// What a supervisor has once its machine runs.
struct Started {
    plan: SupervisorPlan,
    state: StateFile,
    listener: UnixListener,
    terminate: Signal,
    machine: Box<dyn Machine>,
}

/// The agent's first answer, on its way.
type Greeting = AbortOnDropHandle<Result<AgentHello, SessionError>>;

/// The driver's state; see the module's drawing.
struct Supervisor {
    directory: SandboxDir,
    plan: SupervisorPlan,
    state: StateFile,
    machine: Box<dyn Machine>,
    session: AgentSession,
    /// The connection under the session, while it holds.
    connection: Option<AbortOnDropHandle<()>>,
    /// When the machine is given up whose guest has broken the connection off.
    connection_lost: Option<Instant>,
    /// The agent's first answer, until it has come.
    hello: Option<Greeting>,
    is_ready: bool,
    start_deadline: Instant,
    started: Instant,
    kernel_release: String,
    console: ConsoleTail,
    lease: Lease,
    /// Whether the sandbox ends with its lease.
    is_leased: bool,
    commands: mpsc::Receiver<Client>,
    clients: Clients,
    terminate: Signal,
    stopping: Option<Stopping>,
    /// The guest's answer to the request to shut down, until it has come.
    shutdown: Option<AbortOnDropHandle<Result<(), SessionError>>>,
    /// What went wrong, while the machine is being ended for it.
    failure: Option<StartFailure>,
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
            let supervisor = Supervisor::new(lock.directory().clone(), started, lease);
            supervisor.drive().await.conclude(&store, lock).await
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
    let plan = SupervisorPlan::load(directory)?;
    let mut state = directory.read_state()?.after(Transition::Start, None)?;
    state.engine = Some(plan.boot.engine.describe());
    directory.write_state(&state)?;
    let terminate = signal(SignalKind::terminate()).map_err(SuperviseError::Signals)?;
    let listener = socket::listen(directory).map_err(SuperviseError::Listen)?;
    let machine = engine_of(&plan.boot.engine).boot(&plan.boot).await?;
    Ok(Started {
        plan,
        state,
        listener,
        terminate,
        machine,
    })
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
        SuperviseError::Record(_) | SuperviseError::Store(_) => StartFailureKind::Files,
        SuperviseError::Boot(BootError::Socket(_))
        | SuperviseError::Listen(_)
        | SuperviseError::Signals(_) => StartFailureKind::Host,
    };
    StartFailure {
        kind,
        message: text::chain(error),
        console_tail: Vec::new(),
    }
}

impl Supervisor {
    fn new(directory: SandboxDir, started: Started, lease: Lease) -> Self {
        let Started {
            plan,
            state,
            listener,
            terminate,
            mut machine,
        } = started;
        let agent_stream = machine
            .take_agent_stream()
            .expect("nobody else has taken a new machine's stream");
        let console = machine.take_console().expect("nor its console");
        let (session, connection) = AgentSession::start(agent_stream);
        let greeter = session.clone();
        let (clients, commands) = Clients::start(listener);
        Self {
            hello: Some(AbortOnDropHandle::new(tokio::spawn(async move {
                greeter.hello().await
            }))),
            is_ready: false,
            start_deadline: Instant::now() + Duration::from_millis(plan.start_timeout_ms),
            started: Instant::now(),
            kernel_release: String::new(),
            console: console::keep(console, directory.console_log()),
            is_leased: plan.lifetime == Lifetime::Leased,
            directory,
            plan,
            state,
            machine,
            session,
            connection: Some(connection),
            connection_lost: None,
            lease,
            commands,
            clients,
            terminate,
            stopping: None,
            shutdown: None,
            failure: None,
        }
    }

    /// Lets everything that happens to the sandbox happen, until its machine has ended.
    async fn drive(mut self) -> Ended {
        tracing::info!(
            sandbox = %self.plan.id,
            engine = %self.plan.boot.engine.describe(),
            "machine started"
        );
        loop {
            let deadline = self.deadline();
            tokio::select! {
                exit = self.machine.wait() => return self.end(exit).await,
                hello = answer(&mut self.hello) => self.agent_answered(hello).await,
                asked = answer(&mut self.shutdown) => self.shutdown_answered(asked).await,
                () = ended(&mut self.connection) => self.lose_connection(),
                Some(client) = self.commands.recv() => self.serve(client).await,
                notice = self.lease.notice() => self.lease_changed(notice),
                _ = self.terminate.recv() => self.stop(HOST_SHUTDOWN_GRACE_MS, None, false),
                () = tokio::time::sleep_until(deadline) => self.deadline_passed(),
            }
        }
    }

    /// Returns when the driver must act if nothing happens.
    fn deadline(&self) -> Instant {
        // About 30 years: the timer's way to say never.
        const NEVER: Duration = Duration::from_secs(1_000_000_000);
        if let Some(stopping) = &self.stopping {
            return stopping.deadline;
        }
        let start = (!self.is_ready).then_some(self.start_deadline);
        let never = self.started + NEVER;
        start
            .into_iter()
            .chain(self.connection_lost)
            .min()
            .unwrap_or(never)
    }

    fn deadline_passed(&mut self) {
        self.machine.kill();
        // The machine's end is next; until then there is nothing more to lose patience over.
        let later = Instant::now() + KILL_PATIENCE;
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline = later;
            return;
        }
        let message = if self.connection_lost.is_some() {
            "the guest broke off the connection to its agent".to_owned()
        } else {
            let seconds = self.plan.start_timeout_ms / 1000;
            format!("the agent did not answer within {seconds} s")
        };
        self.fail(StartFailureKind::AgentSilent, message);
        self.start_deadline = later;
        self.connection_lost = self.connection_lost.map(|_| later);
    }

    /// The connection to the agent is gone. When the machine is going too, that says more; a
    /// machine that stays is of no use to anybody.
    fn lose_connection(&mut self) {
        self.connection = None;
        self.connection_lost = Some(Instant::now() + CONNECTION_PATIENCE);
    }

    async fn agent_answered(&mut self, answer: Result<AgentHello, SessionError>) {
        self.hello = None;
        match answer {
            Ok(hello) => self.become_ready(hello).await,
            // The connection ends before the machine does; its end says more.
            Err(SessionError::Closed | SessionError::Multiplexer(_)) => {}
            Err(error) => {
                let kind = match error {
                    SessionError::Incompatible { .. } => StartFailureKind::Incompatible,
                    _ => StartFailureKind::AgentSilent,
                };
                self.fail(kind, text::chain(&error));
                self.machine.kill();
            }
        }
    }

    async fn become_ready(&mut self, hello: AgentHello) {
        match self.change(Transition::Ready, None) {
            Ok(()) => self.is_ready = true,
            // A stop came first; the guest is about to be shut down.
            Err(RecordError::IllegalTransition { .. }) => return,
            Err(error) => {
                self.fail(StartFailureKind::Files, text::chain(&error));
                self.machine.kill();
                return;
            }
        }
        let elapsed_ms = milliseconds(self.started.elapsed());
        tracing::info!(
            sandbox = %self.plan.id,
            elapsed_ms,
            agent_started_ms = hello.boot.agent_started_ms,
            modules_loaded_ms = hello.boot.modules_loaded_ms,
            root_ready_ms = hello.boot.root_ready_ms,
            port_opened_ms = hello.boot.port_opened_ms,
            "sandbox ready"
        );
        self.kernel_release = text::excerpt(&hello.kernel_release, MAX_RELEASE_CHARS);
        let ready = Ready {
            kernel_release: self.kernel_release.clone(),
            boot: hello.boot,
            elapsed_ms,
        };
        self.lease.send(LeaseEvent::Ready(ready));
    }

    fn fail(&mut self, kind: StartFailureKind, message: String) {
        self.failure.get_or_insert(StartFailure {
            kind,
            message,
            console_tail: Vec::new(),
        });
    }

    async fn serve(&mut self, client: Client) {
        let Client {
            request,
            connection,
        } = client;
        match request {
            SupervisorRequest::Stop { grace_ms } => self.stop(grace_ms, Some(connection), false),
            SupervisorRequest::Delete => self.stop(0, Some(connection), true),
            SupervisorRequest::Status => {
                let status = SupervisorReply::Status(self.status());
                clients::reply(connection, &status).await;
            }
            SupervisorRequest::OpenStream if self.state.state == SandboxState::Running => {
                self.clients.relay(self.session.clone(), connection);
            }
            SupervisorRequest::OpenStream => {
                let refusal = Refusal {
                    code: RefusalCode::ShuttingDown,
                    message: format!("the sandbox is {}", self.state.state.as_str()),
                };
                clients::reply(connection, &SupervisorReply::Refused(refusal)).await;
            }
        }
    }

    fn status(&self) -> MachineStatus {
        MachineStatus {
            supervisor_pid: std::process::id(),
            vmm_pid: self.machine.vmm_pid(),
            kernel_release: self.kernel_release.clone(),
            uptime_ms: milliseconds(self.started.elapsed()),
            open_streams: self.clients.open_streams(),
        }
    }

    fn lease_changed(&mut self, notice: LeaseNotice) {
        match notice {
            LeaseNotice::Released => self.is_leased = false,
            LeaseNotice::Lost if self.is_leased => {
                tracing::info!(sandbox = %self.plan.id, "lease lost");
                self.stop(0, None, true);
            }
            LeaseNotice::Lost => {}
        }
    }

    /// Begins to stop the machine, or hurries a stop that is under way.
    fn stop(&mut self, grace_ms: u64, client: Option<Connection>, is_deleting: bool) {
        let deadline = Instant::now() + Duration::from_millis(grace_ms);
        let is_first = self.stopping.is_none();
        let stopping = self.stopping.get_or_insert_with(|| Stopping {
            deadline,
            waiting: Vec::new(),
            is_deleting: false,
        });
        stopping.deadline = stopping.deadline.min(deadline);
        stopping.is_deleting |= is_deleting;
        stopping.waiting.extend(client);
        if is_first && let Err(error) = self.change(Transition::Stop, None) {
            tracing::warn!(error = %text::chain(&error), "stop not recorded");
        }
        if grace_ms == 0 || !self.is_ready {
            // A guest whose agent has not answered yet has nothing to save.
            self.machine.kill();
        } else if is_first {
            let session = self.session.clone();
            let asking = tokio::spawn(async move { session.shut_down().await });
            self.shutdown = Some(AbortOnDropHandle::new(asking));
        }
    }

    /// Turns to the power button when the agent cannot be asked; when that does not help either,
    /// the guest is killed once its time is up.
    async fn shutdown_answered(&mut self, answer: Result<(), SessionError>) {
        self.shutdown = None;
        if let Err(error) = answer {
            tracing::warn!(error = %text::chain(&error), "agent not asked to shut down");
            if let Err(error) = self.machine.press_power_button().await {
                tracing::warn!(%error, "power button not pressed");
            }
        }
    }

    fn change(&mut self, transition: Transition, reason: Option<&str>) -> Result<(), RecordError> {
        let state = self.state.after(transition, reason)?;
        self.directory.write_state(&state)?;
        self.state = state;
        Ok(())
    }

    /// Records how the machine ended.
    async fn end(mut self, exit: MachineExit) -> Ended {
        let (console_tail, has_panicked) = self.console.finish().await;
        let (kind, message) = describe_end(&exit, has_panicked, self.stopping.is_some());
        let failure = self.failure.take();
        let transition = match kind {
            _ if failure.is_some() => Transition::Fail,
            MachineEndKind::Stopped => Transition::Ended,
            MachineEndKind::PoweredOff if self.is_ready => Transition::Ended,
            _ => Transition::Fail,
        };
        let reason = failure
            .as_ref()
            .map_or(message.as_str(), |failure| failure.message.as_str());
        if let Err(error) = self.change(transition, Some(reason)) {
            tracing::error!(error = %text::chain(&error), "machine's end not recorded");
        }
        let message = reason.to_owned();
        tracing::info!(sandbox = %self.plan.id, reason = %message, "machine ended");
        let event = end_event(
            failure,
            self.is_ready,
            MachineEnd {
                kind,
                message,
                console_tail,
            },
        );
        let (waiting, is_deleting) = match self.stopping {
            Some(stopping) => (stopping.waiting, stopping.is_deleting),
            None => (Vec::new(), false),
        };
        Ended {
            directory: self.directory,
            lease: self.lease,
            event,
            waiting,
            is_deleting,
        }
    }
}

/// Waits for an answer of the agent; forever when none is on its way.
async fn answer<T>(
    task: &mut Option<AbortOnDropHandle<Result<T, SessionError>>>,
) -> Result<T, SessionError> {
    match task {
        Some(task) => task.await.unwrap_or(Err(SessionError::Closed)),
        None => std::future::pending().await,
    }
}

/// Waits for the end of a task; forever when it was seen already.
async fn ended(task: &mut Option<AbortOnDropHandle<()>>) {
    match task {
        // However it ended, what it drove is gone.
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

/// Says in one line how a machine ended.
fn describe_end(
    exit: &MachineExit,
    has_panicked: bool,
    was_stopped: bool,
) -> (MachineEndKind, String) {
    match exit {
        _ if has_panicked => (
            MachineEndKind::GuestPanicked,
            "the guest's kernel panicked".to_owned(),
        ),
        _ if was_stopped => (MachineEndKind::Stopped, "stopped".to_owned()),
        MachineExit::PoweredOff => (
            MachineEndKind::PoweredOff,
            "the guest powered itself off".to_owned(),
        ),
        MachineExit::Reset => (MachineEndKind::PoweredOff, "the guest rebooted".to_owned()),
        MachineExit::VmmEnded { status, messages } => {
            let last = messages
                .last()
                .map(|line| format!(": {line}"))
                .unwrap_or_default();
            (
                MachineEndKind::VmmDied,
                format!("the VMM ended by itself with {status}{last}"),
            )
        }
    }
}

/// Returns what the lease's holder is told.
fn end_event(failure: Option<StartFailure>, was_ready: bool, end: MachineEnd) -> LeaseEvent {
    if was_ready {
        return LeaseEvent::Ended(end);
    }
    let kind = match end.kind {
        MachineEndKind::GuestPanicked => StartFailureKind::GuestPanicked,
        MachineEndKind::PoweredOff | MachineEndKind::Stopped | MachineEndKind::VmmDied => {
            StartFailureKind::VmmFailed
        }
    };
    let (kind, message) = match failure {
        Some(failure) if kind != StartFailureKind::GuestPanicked => (failure.kind, failure.message),
        _ => (kind, end.message),
    };
    LeaseEvent::Failed(StartFailure {
        kind,
        message,
        console_tail: end.console_tail,
    })
}

/// What the driver leaves behind when the machine has ended.
struct Ended {
    directory: SandboxDir,
    lease: Lease,
    event: LeaseEvent,
    waiting: Vec<Connection>,
    is_deleting: bool,
}

impl Ended {
    /// Removes what is to be removed, then tells everybody who waits.
    async fn conclude(self, store: &Store, lock: SandboxLock) -> Result<(), SuperviseError> {
        remove_if_there(&self.directory.socket());
        let removed = if self.is_deleting {
            store.remove(lock)
        } else {
            drop(lock);
            Ok(())
        };
        let reply = match &removed {
            Ok(()) => SupervisorReply::Stopped,
            Err(error) => SupervisorReply::Refused(Refusal {
                code: RefusalCode::Io,
                message: text::chain(error),
            }),
        };
        for connection in self.waiting {
            clients::reply(connection, &reply).await;
        }
        self.lease.send(self.event);
        self.lease.finish().await;
        Ok(removed?)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
