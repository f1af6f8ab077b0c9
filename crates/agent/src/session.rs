//! One session with the host: a byte stream, divided by yamux into streams, each of which is one
//! operation and one task.
//!
//! The session ends when the byte stream does. Then all its operations end with it: their tasks
//! are dropped, and what a dropped command leaves behind is killed by its guard.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_bytes::ByteBuf;
use smolvm_protocol::message::BootTimes;
use smolvm_protocol::multiplex::{MAX_STREAMS, SESSION_WINDOW_BYTES};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::compat::TokioAsyncReadCompatExt;
use yamux::{Config, Connection, ConnectionError, Mode};

use crate::boot::modules::{HeldModules, NetworkDriver};
use crate::cgroups::Cgroups;
use crate::conversation::Conversation;
use crate::jobs::Jobs;
use crate::network::trust;
use crate::reaper::{ReapScope, Reaper};
use crate::verbs;

/// Parts of a start that the first answer does not wait for: modules, and the start hook.
const LATE_WORK: usize = 2;

/// What the operations of a session act on; it outlives the session.
#[derive(Debug)]
pub struct Environment {
    pub(crate) reaper: Arc<Reaper>,
    /// Absent where commands are confined by process group and session only.
    pub(crate) cgroups: Option<Arc<Cgroups>>,
    pub(crate) jobs: Jobs,
    pub(crate) boot: BootTimes,
    /// Whether this process is PID 1: it then owns the clock and the power switch.
    pub(crate) is_init: bool,
    /// The driver of the network device, until a host has given the guest a network.
    network_driver: Mutex<Option<NetworkDriver>>,
    /// By which the kernel tells of its sockets, until a host has asked about one.
    socket_modules: Mutex<Option<HeldModules>>,
    trusts_gateway: AtomicBool,
    /// Variables that the host wants commands to have. Taken alone.
    variables: Mutex<Vec<(String, String)>>,
    hello_answered: watch::Sender<bool>,
    /// Parts of the start that the first answer did not wait for and that are not done yet.
    late_work: watch::Sender<usize>,
    shutdown: watch::Sender<bool>,
}

impl Environment {
    /// Returns the environment of an agent that is an ordinary process: no cgroups, the clock is
    /// left alone, and a shutdown only ends what [`Environment::run`] waits for.
    #[must_use]
    pub fn of_ordinary_process() -> Arc<Self> {
        Arc::new(Self {
            reaper: Reaper::new(ReapScope::OwnChildren),
            cgroups: None,
            jobs: Jobs::default(),
            boot: BootTimes::default(),
            is_init: false,
            network_driver: Mutex::new(None),
            socket_modules: Mutex::new(None),
            trusts_gateway: AtomicBool::new(false),
            variables: Mutex::default(),
            hello_answered: watch::Sender::new(false),
            late_work: watch::Sender::new(0),
            shutdown: watch::Sender::new(false),
        })
    }

    /// Returns the environment of the agent as PID 1.
    pub(crate) fn of_init(
        boot: BootTimes,
        cgroup_mount: &Path,
        network_driver: Option<NetworkDriver>,
        socket_modules: Option<HeldModules>,
    ) -> Arc<Self> {
        Arc::new(Self {
            reaper: Reaper::new(ReapScope::Everyone),
            cgroups: Cgroups::set_up(cgroup_mount).ok(),
            jobs: Jobs::default(),
            boot,
            is_init: true,
            network_driver: Mutex::new(network_driver),
            socket_modules: Mutex::new(socket_modules),
            trusts_gateway: AtomicBool::new(false),
            variables: Mutex::default(),
            hello_answered: watch::Sender::new(false),
            late_work: watch::Sender::new(LATE_WORK),
            shutdown: watch::Sender::new(false),
        })
    }

    /// Collects ended children for as long as it is polled; commands end only while it is.
    ///
    /// # Errors
    ///
    /// When SIGCHLD cannot be listened to.
    pub async fn run(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};

        let mut child_ended = signal(SignalKind::child())?;
        loop {
            self.reap();
            if child_ended.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    /// Waits until the host or the guest asks for the machine to be switched off.
    pub async fn shutdown_requested(&self) {
        let mut shutdown = self.shutdown.subscribe();
        // The sender is `self`, so the wait cannot fail.
        let _ = shutdown.wait_for(|is_requested| *is_requested).await;
    }

    /// Waits until a session has been opened for the first time.
    pub(crate) async fn hello_answered(&self) {
        let mut answered = self.hello_answered.subscribe();
        // The sender is `self`, so the wait cannot fail.
        let _ = answered.wait_for(|is_answered| *is_answered).await;
    }

    /// Waits until nothing of the start is still to come.
    pub(crate) async fn start_finished(&self) {
        let mut work = self.late_work.subscribe();
        // The sender is `self`, so the wait cannot fail.
        let _ = work.wait_for(|left| *left == 0).await;
    }

    /// Says that a part of what the first answer did not wait for is done.
    pub(crate) fn note_late_work(&self) {
        self.late_work
            .send_modify(|left| *left = left.saturating_sub(1));
    }

    pub(crate) fn note_hello(&self) {
        self.hello_answered.send_replace(true);
    }

    /// Hands out the driver of the network device; `None` after the first call, and without the
    /// device.
    pub(crate) fn take_network_driver(&self) -> Option<NetworkDriver> {
        self.network_driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Hands out the modules by which the kernel tells of its sockets; `None` after the first call.
    pub(crate) fn take_socket_modules(&self) -> Option<HeldModules> {
        self.socket_modules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Says that the guest now trusts the certificate authority of the host's gateway.
    pub(crate) fn note_trust(&self) {
        self.trusts_gateway.store(true, Ordering::Relaxed);
    }

    /// Says which variables the host wants commands to have.
    pub(crate) fn set_variables(&self, variables: Vec<(String, String)>) {
        *self
            .variables
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = variables;
    }

    /// Returns the variables that all commands have which are not given others: those that tell them
    /// of the gateway's authority, and those that the host wants.
    pub(crate) fn variables(&self) -> Vec<(ByteBuf, ByteBuf)> {
        let bytes = |text: &[u8]| ByteBuf::from(text);
        let trusts_gateway = self.trusts_gateway.load(Ordering::Relaxed);
        let trust = trusts_gateway.then_some(trust::VARIABLES);
        let mut variables: Vec<(ByteBuf, ByteBuf)> = trust
            .into_iter()
            .flatten()
            .map(|(name, value)| (bytes(name), bytes(value)))
            .collect();
        let wanted = self
            .variables
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (name, value) in wanted.iter() {
            variables.push((bytes(name.as_bytes()), bytes(value.as_bytes())));
        }
        variables
    }

    pub(crate) fn request_shutdown(&self) {
        self.shutdown.send_replace(true);
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        *self.shutdown.borrow()
    }

    /// Collects every end there is and returns whether no child is left.
    pub(crate) fn reap(&self) -> bool {
        let is_childless = self.reaper.reap();
        if let Some(cgroups) = &self.cgroups {
            cgroups.sweep();
        }
        is_childless
    }
}

/// Why a session ended other than by the host closing it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The host's bytes are not yamux, or the byte stream failed.
    #[error("multiplexed stream failed")]
    Multiplexer(#[source] ConnectionError),
}

/// Serves one session on `stream` until the host closes it.
///
/// # Errors
///
/// When the host breaks the multiplexing protocol or the stream fails.
pub async fn serve<S>(stream: S, environment: Arc<Environment>) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection::new(stream.compat(), multiplexer(), Mode::Server);
    let mut operations = JoinSet::new();
    loop {
        tokio::select! {
            inbound = poll_fn(|context| connection.poll_next_inbound(context)) => match inbound {
                Some(Ok(stream)) => {
                    let conversation = Conversation::new(stream);
                    operations.spawn(verbs::answer(conversation, Arc::clone(&environment)));
                }
                Some(Err(ConnectionError::Io(error))) if error.kind() == ErrorKind::BrokenPipe => {
                    return Ok(());
                }
                Some(Err(error)) => return Err(SessionError::Multiplexer(error)),
                None => return Ok(()),
            },
            // A task that panicked has reported that through the panic hook, and its stream was
            // reset when it was dropped.
            Some(_) = operations.join_next() => {}
        }
    }
}

fn multiplexer() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(SESSION_WINDOW_BYTES));
    config
}
