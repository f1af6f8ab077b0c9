//! The one task that everything about a running sandbox passes through.

use std::time::Duration;

use serde_bytes::ByteBuf;
use smolvm_protocol::control::{
    LeaseEvent, MachineEnd, MachineEndKind, MachineStatus, NetworkChange, Ready, StartFailure,
    StartFailureKind, SupervisorReply, SupervisorRequest,
};
use smolvm_protocol::message::{AgentHello, Identity, Refusal, RefusalCode, SEED_BYTES};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::clients::{self, Client, Clients, Connection};
use super::console::{self, ConsoleTail};
use super::deadlines::Deadlines;
use super::ending::{self, Ended};
use super::forwards::{BindError, Forwards, Target};
use super::lease::{Lease, LeaseNotice};
use super::network::Network;
use super::{Started, at_end};
use crate::engine::{BootPlan, Machine, MachineExit, Origin};
use crate::multiplexer::{AgentSession, GuestSettings, SessionError};
use crate::network::NetworkError;
use crate::plan::SupervisorPlan;
use crate::record::{RecordError, SandboxDir, StateFile};
use crate::state::{SandboxState, Transition};
use crate::{ErrorKind, Lifetime, text};

/// Milliseconds a guest has to shut down when the host does.
const HOST_SHUTDOWN_GRACE_MS: u64 = 5_000;

/// Milliseconds a guest has to shut down when its sandbox has expired and its disk is kept.
const EXPIRY_GRACE_MS: u64 = 5_000;

/// How long a machine may take to end after its connection to the agent did.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(1);

/// How long a VMM may take to say what it has done so far.
const STATS_PATIENCE: Duration = Duration::from_secs(1);

/// How long a killed machine may take to end before it is killed again.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Longest release of a kernel that is believed, in characters; Linux has 64 (utsname.h).
const MAX_RELEASE_CHARS: usize = 100;

/// A stop under way: who waits for it, and when patience ends.
struct Stopping {
    deadline: Instant,
    waiting: Vec<Connection>,
    is_deleting: bool,
}

/// What the guest does before it is shut down, being done.
struct Closing {
    task: AbortOnDropHandle<()>,
    /// The stop that comes then.
    grace_ms: u64,
    waiting: Vec<Connection>,
    is_deleting: bool,
}

/// The agent's first answer, on its way.
type Greeting = AbortOnDropHandle<Result<AgentHello, SessionError>>;

/// The owner of the state; see the drawing in [`super`].
pub(super) struct Driver {
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
    closing: Option<Closing>,
    stopping: Option<Stopping>,
    /// The guest's answer to the request to shut down, until it has come.
    shutdown: Option<AbortOnDropHandle<Result<(), SessionError>>>,
    /// Clients that wait until the agent has answered.
    awaiting_ready: Vec<Connection>,
    forwards: Forwards,
    /// Absent where the machine has no network device.
    network: Option<Network>,
    /// The setting of the guest's clock after a pause.
    clock: Option<AbortOnDropHandle<()>>,
    /// When the sandbox ends by itself, once it is ready.
    deadlines: Deadlines,
    /// The deadline that ended the sandbox.
    expiry: Option<String>,
    /// What went wrong, while the machine is being ended for it.
    failure: Option<StartFailure>,
}

/// Returns who the guest is to be, where it goes on from a recording of another.
fn identity_of(plan: &BootPlan) -> Option<Identity> {
    if !matches!(plan.origin, Origin::Recording(_)) {
        return None;
    }
    let mut seed = [0; SEED_BYTES];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .expect("getrandom of 32 bytes neither blocks after boot nor fails (getrandom(2))");
    Some(Identity {
        hostname: plan.hostname.clone(),
        seed: ByteBuf::from(seed),
    })
}

impl Driver {
    pub(super) fn new(directory: SandboxDir, started: Started, lease: Lease) -> Self {
        let Started {
            plan,
            state,
            listener,
            terminate,
            forwards,
            network,
            mut machine,
        } = started;
        let agent_stream = machine
            .take_agent_stream()
            .expect("nobody else has taken a new machine's stream");
        let console = machine.take_console().expect("nor its console");
        let (session, connection) = AgentSession::start(agent_stream);
        let greeter = session.clone();
        let settings = GuestSettings {
            max_processes: plan.max_processes,
            network: plan.boot.network.map(crate::network::guest_side),
            ca_certificate: network.as_ref().and_then(Network::ca_certificate),
            variables: Some(plan.variables.clone().into_iter().collect()),
            identity: identity_of(&plan.boot),
        };
        let (clients, commands) = Clients::start(listener);
        Self {
            hello: Some(AbortOnDropHandle::new(tokio::spawn(async move {
                let hello = greeter.hello(settings).await?;
                // The first hello has waited for the guest to boot, and its time with it.
                greeter.set_clock().await?;
                Ok(hello)
            }))),
            is_ready: false,
            start_deadline: Instant::now() + Duration::from_millis(plan.start_timeout_ms),
            started: Instant::now(),
            kernel_release: String::new(),
            console: console::keep(console, directory.console_log()),
            is_leased: plan.lifetime == Lifetime::Leased,
            deadlines: Deadlines::new(plan.idle_timeout_ms, plan.max_lifetime_ms),
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
            closing: None,
            stopping: None,
            shutdown: None,
            awaiting_ready: Vec::new(),
            forwards,
            network,
            clock: None,
            expiry: None,
            failure: None,
        }
    }

    /// Lets everything that happens to the sandbox happen, until its machine has ended.
    pub(super) async fn drive(mut self) -> Ended {
        tracing::info!(
            sandbox = %self.plan.id,
            engine = %self.plan.boot.engine.describe(),
            "machine started"
        );
        loop {
            let deadline = self.deadline();
            // A paused guest cannot be asked, and its jobs do not run.
            let agent = (self.state.state == SandboxState::Running).then_some(&self.session);
            let operations = self.clients.operations();
            tokio::select! {
                exit = self.machine.wait() => return self.end(exit).await,
                hello = answer(&mut self.hello) => self.agent_answered(hello).await,
                asked = answer(&mut self.shutdown) => self.shutdown_answered(asked).await,
                () = ended(self.connection.as_mut()) => self.lose_connection(),
                Some(client) = self.commands.recv() => self.serve(client).await,
                notice = self.lease.notice() => self.lease_changed(notice),
                _ = self.terminate.recv() => self.close(HOST_SHUTDOWN_GRACE_MS, None, false),
                () = ended(self.closing.as_mut().map(|closing| &mut closing.task)) => {
                    self.stop_closed();
                }
                () = tokio::time::sleep_until(deadline) => self.patience_lost(),
                reason = self.deadlines.passed(operations, agent), if self.may_expire() => {
                    self.expire(reason);
                }
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

    /// Returns whether the sandbox may end by itself: nothing else is ending it, or starting.
    const fn may_expire(&self) -> bool {
        self.is_ready
            && self.closing.is_none()
            && self.stopping.is_none()
            && self.connection_lost.is_none()
    }

    fn expire(&mut self, reason: String) {
        tracing::info!(sandbox = %self.plan.id, %reason, "sandbox expired");
        self.expiry = Some(reason);
        let is_deleting = self.plan.lifetime == Lifetime::Leased;
        let grace_ms = if is_deleting { 0 } else { EXPIRY_GRACE_MS };
        self.close(grace_ms, None, is_deleting);
    }

    fn patience_lost(&mut self) {
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
                    SessionError::Incompatible { .. }
                    | SessionError::NoNetwork
                    | SessionError::NoIdentity => StartFailureKind::Incompatible,
                    _ => StartFailureKind::AgentSilent,
                };
                self.fail(kind, text::chain(&error));
                self.machine.kill();
            }
        }
    }

    async fn become_ready(&mut self, hello: AgentHello) {
        match self.change(Transition::Ready, None) {
            Ok(()) => {
                self.is_ready = true;
                self.deadlines.ready();
                let ask = |network: Network| network.ask_for_causes(self.session.clone());
                self.network = self.network.take().map(ask);
                self.forwards
                    .answer(&self.session, self.clients.operations());
                self.open_to_peers();
            }
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
        for connection in self.awaiting_ready.drain(..) {
            clients::reply(connection, &SupervisorReply::Done).await;
        }
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
            SupervisorRequest::Stop { grace_ms: 0 } => self.stop(0, Some(connection), false),
            SupervisorRequest::Stop { grace_ms } => self.close(grace_ms, Some(connection), false),
            SupervisorRequest::Delete => self.stop(0, Some(connection), true),
            SupervisorRequest::Status => {
                let status = SupervisorReply::Status(self.status().await);
                clients::reply(connection, &status).await;
            }
            SupervisorRequest::AwaitReady if self.is_ready => {
                clients::reply(connection, &SupervisorReply::Done).await;
            }
            SupervisorRequest::AwaitReady => self.awaiting_ready.push(connection),
            SupervisorRequest::Pause
            | SupervisorRequest::Resume
            | SupervisorRequest::Forward { .. }
            | SupervisorRequest::Unforward(_)
            | SupervisorRequest::Forwards => {
                let reply = self.obey(&request).await;
                clients::reply(connection, &reply).await;
            }
            SupervisorRequest::ChangeNetwork(change) => {
                let reply = self.change_network(&change);
                clients::reply(connection, &reply).await;
            }
            SupervisorRequest::OpenStream if self.state.state == SandboxState::Running => {
                self.clients.relay(self.session.clone(), connection);
            }
            SupervisorRequest::OpenStream => clients::reply(connection, &self.wrong_state()).await,
        }
    }

    /// Does what is done at once and changes what the machine is or how it is reached.
    async fn obey(&mut self, request: &SupervisorRequest) -> SupervisorReply {
        match (request, self.state.state) {
            (SupervisorRequest::Pause, SandboxState::Running) => self.pause().await,
            (SupervisorRequest::Resume, SandboxState::Paused) => self.resume().await,
            (
                SupervisorRequest::Forward {
                    guest_port,
                    host_port,
                    is_owner_only,
                },
                SandboxState::Running,
            ) => {
                let operations = self.clients.operations();
                let target = Target {
                    guest_port: *guest_port,
                    is_owner_only: *is_owner_only,
                };
                let opened = self
                    .forwards
                    .add(target, *host_port, &self.session, operations)
                    .await;
                match opened {
                    Ok(forward) => SupervisorReply::Forwarded(forward),
                    Err(error) => refused_by_host("expose the port", &error),
                }
            }
            (SupervisorRequest::Unforward(forward), _) => {
                if self.forwards.remove(*forward).await {
                    return SupervisorReply::Done;
                }
                SupervisorReply::Refused(Refusal {
                    code: RefusalCode::InvalidInput,
                    message: format!("port {} is not exposed", forward.host_port),
                })
            }
            (SupervisorRequest::Forwards, _) => SupervisorReply::Forwards(self.forwards.list()),
            _ => self.wrong_state(),
        }
    }

    fn change_network(&mut self, change: &NetworkChange) -> SupervisorReply {
        let changed = match &mut self.network {
            Some(network) => network.change(change, &self.directory),
            None => change_without_device(change, &self.directory),
        };
        match changed {
            Ok(()) => SupervisorReply::Done,
            Err(error) => SupervisorReply::Refused(Refusal {
                code: match error.kind() {
                    ErrorKind::InvalidInput => RefusalCode::InvalidInput,
                    ErrorKind::NotFound => RefusalCode::NotFound,
                    _ => RefusalCode::Host,
                },
                message: text::chain(&error),
            }),
        }
    }

    fn wrong_state(&self) -> SupervisorReply {
        SupervisorReply::Refused(Refusal {
            code: RefusalCode::ShuttingDown,
            message: format!("the sandbox is {}", self.state.state.as_str()),
        })
    }

    async fn pause(&mut self) -> SupervisorReply {
        if let Err(error) = self.machine.pause().await {
            return refused_by_host("pause the machine", &error);
        }
        self.forwards.close().await;
        self.close_to_peers();
        self.record(Transition::Pause)
    }

    async fn resume(&mut self) -> SupervisorReply {
        if let Err(error) = self.forwards.bind().await {
            let code = match error {
                BindError::Taken { .. } => RefusalCode::PortTaken,
                BindError::Refused { .. } => RefusalCode::Host,
            };
            let message = text::chain(&error);
            return SupervisorReply::Refused(Refusal { code, message });
        }
        if let Err(error) = self.machine.resume().await {
            self.forwards.close().await;
            return refused_by_host("resume the machine", &error);
        }
        self.forwards
            .answer(&self.session, self.clients.operations());
        self.open_to_peers();
        // The guest's clock stood still.
        let session = self.session.clone();
        self.clock = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = session.set_clock().await {
                tracing::warn!(error = %text::chain(&error), "guest's clock not set");
            }
        })));
        self.record(Transition::Resume)
    }

    fn open_to_peers(&mut self) {
        if let Some(network) = &mut self.network {
            network.open_to_peers(&self.directory);
        }
    }

    fn close_to_peers(&mut self) {
        if let Some(network) = &mut self.network {
            network.close_to_peers();
        }
    }

    fn record(&mut self, transition: Transition) -> SupervisorReply {
        match self.change(transition, None) {
            Ok(()) => SupervisorReply::Done,
            Err(error) => SupervisorReply::Refused(Refusal {
                code: RefusalCode::Io,
                message: text::chain(&error),
            }),
        }
    }

    async fn status(&mut self) -> MachineStatus {
        let vmm_pid = self.machine.vmm_pid();
        // The VMM may be the guest's by now, and say nothing.
        let stats = tokio::time::timeout(STATS_PATIENCE, self.machine.stats()).await;
        MachineStatus {
            supervisor_pid: std::process::id(),
            vmm_pid,
            stats: stats.ok().and_then(Result::ok).flatten(),
            resident_bytes: vmm_pid.and_then(resident_bytes),
            kernel_release: self.kernel_release.clone(),
            uptime_ms: milliseconds(self.started.elapsed()),
            open_streams: u32::try_from(self.clients.operations().under_way()).unwrap_or(u32::MAX),
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

    /// Stops the machine once the guest has done what it does before.
    fn close(&mut self, grace_ms: u64, client: Option<Connection>, is_deleting: bool) {
        if let Some(closing) = &mut self.closing {
            closing.waiting.extend(client);
            return;
        }
        let can_ask = self.state.state == SandboxState::Running && self.is_ready;
        let Some(at_end) = self.plan.at_end.take_if(|_| can_ask) else {
            self.stop(grace_ms, client, is_deleting);
            return;
        };
        let session = self.session.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = at_end::run(at_end, session).await {
                tracing::warn!(error = %text::chain(&error), "guest's last command not done");
            }
        });
        self.closing = Some(Closing {
            task: AbortOnDropHandle::new(task),
            grace_ms,
            waiting: client.into_iter().collect(),
            is_deleting,
        });
    }

    fn stop_closed(&mut self) {
        if let Some(closing) = &self.closing {
            self.stop(closing.grace_ms, None, closing.is_deleting);
        }
    }

    /// Begins to stop the machine, or hurries a stop that is under way.
    fn stop(&mut self, grace_ms: u64, client: Option<Connection>, is_deleting: bool) {
        let deadline = Instant::now() + Duration::from_millis(grace_ms);
        let is_first = self.stopping.is_none();
        let was_paused = self.state.state == SandboxState::Paused;
        self.forwards = Forwards::default();
        self.close_to_peers();
        let stopping = self.stopping.get_or_insert_with(|| Stopping {
            deadline,
            waiting: Vec::new(),
            is_deleting: false,
        });
        stopping.deadline = stopping.deadline.min(deadline);
        stopping.is_deleting |= is_deleting;
        stopping.waiting.extend(client);
        if let Some(closing) = self.closing.take() {
            stopping.waiting.extend(closing.waiting);
            stopping.is_deleting |= closing.is_deleting;
        }
        if is_first && let Err(error) = self.change(Transition::Stop, None) {
            tracing::warn!(error = %text::chain(&error), "stop not recorded");
        }
        if grace_ms == 0 || !self.is_ready {
            // A guest whose agent has not answered yet has nothing to save.
            self.machine.kill();
        } else if is_first {
            if was_paused {
                self.machine.resume_soon();
            }
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
        let (console_tail, panic) = self.console.finish().await;
        if let Some(network) = self.network.take() {
            network.finish().await;
        }
        let (kind, message) = ending::describe(&exit, panic.as_deref(), self.stopping.is_some());
        let message = self.expiry.take().unwrap_or(message);
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
        let event = ending::event(
            failure,
            self.is_ready,
            MachineEnd {
                kind,
                message,
                console_tail,
            },
        );
        let (waiting, is_deleting) = match (self.stopping, self.closing) {
            (Some(stopping), _) => (stopping.waiting, stopping.is_deleting),
            (None, Some(closing)) => (closing.waiting, closing.is_deleting),
            (None, None) => (Vec::new(), false),
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

/// Changes the policy of a machine that has no network device, for its next start.
fn change_without_device(
    change: &NetworkChange,
    directory: &SandboxDir,
) -> Result<(), NetworkError> {
    let (spec, _) = directory.read_spec()?;
    directory.write_network(&crate::network::changed(&spec.network, change)?)?;
    Ok(())
}

/// Returns how much of the host's memory a process has.
fn resident_bytes(pid: u32) -> Option<u64> {
    let process = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?;
    let pages = process.statm().ok()?.resident;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

fn refused_by_host(step: &str, error: &std::io::Error) -> SupervisorReply {
    use std::io::ErrorKind as Kind;

    let code = match error.kind() {
        Kind::InvalidInput => RefusalCode::InvalidInput,
        Kind::QuotaExceeded => RefusalCode::ResourcesExhausted,
        _ => RefusalCode::Host,
    };
    SupervisorReply::Refused(Refusal {
        code,
        message: format!("{step}: {error}"),
    })
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
async fn ended(task: Option<&mut AbortOnDropHandle<()>>) {
    match task {
        // However it ended, what it drove is gone.
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

/// Returns a duration in whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
