//! What clients and a sandbox's supervisor say to each other, all of it on the host.
//!
//! A client makes one connection to the supervisor's Unix socket for each operation and sends one
//! [`SupervisorRequest`]. After [`SupervisorRequest::OpenStream`] is granted, the connection *is*
//! a stream to the agent: the supervisor relays bytes without reading them, and the client
//! speaks [`crate::message`] on it.
//!
//! The process that starts a supervisor holds the other end of the supervisor's standard input, a
//! socket: the *lease*. On it the supervisor reports [`LeaseEvent`]s. For a leased sandbox, the
//! end of that connection is the end of the sandbox unless [`LeaseRequest::Release`] came first.

use serde::{Deserialize, Serialize};

use crate::message::{BootTimes, Refusal};

pub use crate::vmm::{Flow, MachineStats, Traffic};

/// What a client wants from the supervisor; the first frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorRequest {
    /// Turns the connection into a stream to the agent. Answer:
    /// [`SupervisorReply::StreamOpened`], then the agent's bytes.
    OpenStream,
    /// Asks how the machine is. Answer: [`SupervisorReply::Status`].
    Status,
    /// Shuts the guest down, or kills the machine when that takes longer than `grace_ms`. Answer:
    /// [`SupervisorReply::Stopped`] when the machine is gone.
    Stop {
        /// Milliseconds the guest has for an orderly shutdown; zero kills at once.
        grace_ms: u64,
    },
    /// Waits until the agent has answered. Answer: [`SupervisorReply::Done`]; the connection ends
    /// without one when the machine does first.
    AwaitReady,
    /// Holds the machine still, and closes its forwards. Answer: [`SupervisorReply::Done`].
    Pause,
    /// Lets a paused machine go on, with the forwards it had; refused when one of their ports has
    /// been taken meanwhile. Answer: [`SupervisorReply::Done`].
    Resume,
    /// Makes a port of the guest's loopback reachable on the host's loopback, until it is closed
    /// or the machine ends. The same pair again is the same forward. Answer:
    /// [`SupervisorReply::Forwarded`].
    Forward {
        /// Port in the guest, 1 to 65535.
        guest_port: u16,
        /// Port on the host that is wished for; another one is chosen when it is taken or absent.
        host_port: Option<u16>,
        /// Whether only processes of the supervisor's user, and of root, may connect.
        #[serde(default)]
        is_owner_only: bool,
    },
    /// Closes a forward and its connections. Answer: [`SupervisorReply::Done`].
    Unforward(Forward),
    /// Asks for the forwards. Answer: [`SupervisorReply::Forwards`].
    Forwards,
    /// Changes what the sandbox may reach, at once and for later starts. Answer:
    /// [`SupervisorReply::Done`].
    ChangeNetwork(NetworkChange),
    /// Kills the machine and removes the sandbox with all its files. Answer:
    /// [`SupervisorReply::Stopped`] when nothing is left but the supervisor itself.
    Delete,
}

/// What the supervisor answers to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorReply {
    /// The connection is now a stream to the agent.
    StreamOpened,
    /// How the machine is.
    Status(MachineStatus),
    /// The machine is gone.
    Stopped,
    /// What was asked for is done.
    Done,
    /// The forward is there.
    Forwarded(Forward),
    /// The forwards there are.
    Forwards(Vec<Forward>),
    /// The request is refused or failed.
    Refused(Refusal),
}

/// A port of the guest's loopback that can be reached on the host's loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Port on 127.0.0.1 of the host.
    pub host_port: u16,
    /// Port on the loopback of the guest.
    pub guest_port: u16,
}

/// A change of a network policy, in the words of whoever asks for it. Done in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkChange {
    /// The new mode, if it changes: `off`, `restricted` or `open`.
    pub mode: Option<String>,
    /// Whether all rules go.
    pub clears_rules: bool,
    /// Rules that go.
    pub remove: Vec<String>,
    /// Rules that come, unless they are there.
    pub add: Vec<String>,
}

/// How a machine is and has been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Process ID of the supervisor.
    pub supervisor_pid: u32,
    /// Process ID of the VMM, where the engine has a process of its own.
    pub vmm_pid: Option<u32>,
    /// What the agent said of itself.
    pub kernel_release: String,
    /// Milliseconds since the machine was started.
    pub uptime_ms: u64,
    /// Operations under way.
    pub open_streams: u32,
    /// What the machine has done so far, where its engine counts it.
    #[serde(default)]
    pub stats: Option<MachineStats>,
    /// Memory of the host's that the VMM has, its guest's included, in bytes.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
}

/// What the supervisor tells the process that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseEvent {
    /// The agent has answered: the sandbox can be used.
    Ready(Ready),
    /// The sandbox could not be started; the supervisor ends.
    Failed(StartFailure),
    /// The machine has ended after it was ready; the supervisor ends.
    Ended(MachineEnd),
}

/// How a machine that was ready has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineEnd {
    /// What a program can act on.
    pub kind: MachineEndKind,
    /// One line for people, such as `guest powered off`.
    pub message: String,
    /// The last lines of the guest's console, oldest first, made printable.
    pub console_tail: Vec<String>,
}

/// Kind of a [`MachineEnd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineEndKind {
    /// It was asked to stop.
    Stopped,
    /// The guest powered itself off or rebooted.
    PoweredOff,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// The VMM ended by itself or was killed.
    VmmDied,
}

/// What is known once the agent has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Release of the guest's kernel.
    pub kernel_release: String,
    /// When the steps of the guest's boot ended.
    pub boot: BootTimes,
    /// Milliseconds from the supervisor's start to the agent's answer.
    pub elapsed_ms: u64,
}

/// Why a sandbox could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// What a program can act on.
    pub kind: StartFailureKind,
    /// One line for people: what failed and why.
    pub message: String,
    /// The last lines of the guest's console, oldest first, made printable.
    pub console_tail: Vec<String>,
}

/// Kind of a [`StartFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailureKind {
    /// The VMM is missing or cannot be executed.
    VmmMissing,
    /// The VMM ended before the guest was ready.
    VmmFailed,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// The agent did not answer in time.
    AgentSilent,
    /// The agent and the host have no generation in common.
    Incompatible,
    /// A file of the sandbox is missing or unusable.
    Files,
    /// A port of the host that the sandbox exposes is taken.
    PortTaken,
    /// The host failed in another way.
    Host,
}

/// What the holder of the lease tells the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseRequest {
    /// The sandbox goes on when this connection ends.
    Release,
}
