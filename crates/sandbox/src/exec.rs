//! Running commands in a sandbox.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use smolvm_protocol::message::{Control, Event, Exec, ExitReason, Request, TerminalSize};
use smolvm_protocol::{Frame, FrameError, FrameKind, MAX_DATA_BYTES, MAX_MESSAGE_BYTES};
use tokio::time::Instant;

use crate::access::{Access, AccessError, Connection, END_PATIENCE};
use crate::{ErrorKind, Sandbox, SandboxState};

/// How long after a command's timeout the agent may take to report it. The command is killed by
/// the agent; this is for an agent that no longer can.
const TIMEOUT_SLACK: Duration = Duration::from_secs(2);

/// How long a guest may take to start a command that has no timeout of its own. A guest that
/// reads its disk for the first time under software emulation takes seconds.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(90);

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Command, arguments and environment are larger than any Linux kernel takes.
    #[error(
        "the command line and environment are {bytes} bytes; a guest takes at most about 2 MiB"
    )]
    TooLong {
        /// Their size, in bytes.
        bytes: usize,
    },
    /// The guest did not start the command in time.
    #[error("start the command: the guest did not within {} s", patience.as_secs_f64())]
    NotStarted {
        /// How long it had.
        patience: Duration,
    },
    /// The sandbox could not be reached, or the agent refused.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl ExecError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLong { .. } => ErrorKind::InvalidInput,
            Self::NotStarted { .. } => ErrorKind::Timeout,
            Self::Access(error) => error.kind(),
        }
    }
}

/// Why a command is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// It ended in the guest.
    Guest(ExitReason),
    /// Its sandbox was stopped or deleted while it ran.
    SandboxStopped,
    /// Its machine ended while it ran: the guest's kernel panicked, or the VMM died.
    GuestDied {
        /// Why, in one line.
        message: String,
        /// The last lines of the guest's console.
        console_tail: Vec<String>,
    },
}

impl EndReason {
    /// Returns the name of the reason, as machine-readable output spells it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Guest(ExitReason::Exited { .. }) => "exited",
            Self::Guest(ExitReason::Signalled { .. }) => "signalled",
            Self::Guest(ExitReason::TimedOut) => "timed_out",
            Self::Guest(ExitReason::OutOfMemory) => "out_of_memory",
            Self::Guest(ExitReason::Killed) => "killed",
            Self::SandboxStopped => "sandbox_stopped",
            Self::GuestDied { .. } => "guest_died",
        }
    }

    /// Returns the exit code that says the same, as shells and timeout(1) have it: the command's
    /// own; 124 for a timeout; 128 + n for signal n, where being killed is signal 9; 125 when the
    /// sandbox went away.
    #[must_use]
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::Guest(ExitReason::Exited { code }) => *code,
            Self::Guest(ExitReason::Signalled { number }) => 128 + *number,
            Self::Guest(ExitReason::TimedOut) => 124,
            Self::Guest(ExitReason::OutOfMemory | ExitReason::Killed) => 137,
            Self::SandboxStopped | Self::GuestDied { .. } => 125,
        }
    }

    /// Finds out why the stream ended before the command did.
    pub(crate) async fn of_loss(access: &Access) -> Self {
        match access.not_running_within(END_PATIENCE).await {
            AccessError::NotRunning {
                state: SandboxState::Error,
                reason,
                ..
            } => Self::GuestDied {
                message: reason.unwrap_or_else(|| "the machine ended".to_owned()),
                console_tail: access.console_tail(),
            },
            AccessError::NotRunning { .. }
            | AccessError::Store(crate::StoreError::NotFound { .. }) => Self::SandboxStopped,
            error => Self::GuestDied {
                message: crate::text::chain(&error),
                console_tail: access.console_tail(),
            },
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// How long it ran, as the host saw it.
    pub elapsed: Duration,
}

/// What comes out of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of its error output.
    Stderr(Bytes),
    /// Its end; nothing comes after it.
    End(End),
}

/// A running command. Dropping it kills the command and everything it started.
#[derive(Debug)]
pub struct Process {
    /// Its process ID in the guest.
    pub pid: u32,
    /// The way into it.
    pub input: ProcessInput,
    /// What comes out of it.
    pub output: ProcessOutput,
}

/// The way into a running command: its standard input, signals, its terminal's size.
#[derive(Debug)]
pub struct ProcessInput {
    sink: SplitSink<Connection, Frame>,
}

/// What comes out of a running command.
#[derive(Debug)]
pub struct ProcessOutput {
    access: Access,
    stream: SplitStream<Connection>,
    started: Instant,
    deadline: Option<Instant>,
}

impl Sandbox {
    /// Runs a command in the sandbox, which must be running.
    ///
    /// # Errors
    ///
    /// When the sandbox is not running, or the command cannot be started.
    pub async fn exec(&self, exec: Exec) -> Result<Process, ExecError> {
        let started = Instant::now();
        // A timeout of centuries is none.
        let deadline = exec
            .timeout_ms
            .and_then(|timeout_ms| started.checked_add(Duration::from_millis(timeout_ms)))
            .and_then(|deadline| deadline.checked_add(TIMEOUT_SLACK));
        let request = Frame::message(&Request::Exec(exec)).map_err(|error| match error {
            FrameError::TooLong { length, .. } => ExecError::TooLong { bytes: length },
            error => AccessError::Connection(error).into(),
        })?;
        debug_assert!(
            request.payload.len() <= MAX_MESSAGE_BYTES,
            "Frame::message checks this"
        );
        let patience = deadline.map_or(START_PATIENCE, |deadline| deadline - started);
        let (pid, connection) = tokio::time::timeout(patience, self.start_command(request))
            .await
            .map_err(|_| ExecError::NotStarted { patience })??;
        let (sink, stream) = connection.split();
        Ok(Process {
            pid,
            input: ProcessInput::new(sink),
            output: ProcessOutput {
                access: self.access().clone(),
                stream,
                started,
                deadline,
            },
        })
    }
}

impl Sandbox {
    pub(crate) async fn start_command(
        &self,
        request: Frame,
    ) -> Result<(u32, Connection), AccessError> {
        let mut connection = self.access().open_stream().await?;
        connection.send(request).await?;
        match next_event(&mut connection).await? {
            Some(Event::Started { pid }) => Ok((pid, connection)),
            Some(Event::Refused(refusal)) => Err(AccessError::Refused(refusal)),
            Some(_) => Err(AccessError::Unexpected),
            None => Err(self.access().not_running().await),
        }
    }
}

/// Reads one message; `None` when the connection has ended.
pub(crate) async fn next_event(connection: &mut Connection) -> Result<Option<Event>, AccessError> {
    match connection.next().await {
        Some(Ok(frame)) => Ok(Some(frame.parse()?)),
        Some(Err(FrameError::Io(_))) | None => Ok(None),
        Some(Err(error)) => Err(error.into()),
    }
}

impl ProcessInput {
    pub(crate) const fn new(sink: SplitSink<Connection, Frame>) -> Self {
        Self { sink }
    }

    /// Writes to the command's standard input. Waits while the command does not read.
    ///
    /// # Errors
    ///
    /// When the command is over.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), AccessError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(MAX_DATA_BYTES));
            self.sink.send(Frame::data(FrameKind::Input, piece)).await?;
        }
        Ok(())
    }

    /// Closes the command's standard input.
    ///
    /// # Errors
    ///
    /// When the command is over.
    pub async fn close(&mut self) -> Result<(), AccessError> {
        Ok(self.sink.send(Frame::end()).await?)
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    ///
    /// When the command is over.
    pub async fn signal(&mut self, number: i32) -> Result<(), AccessError> {
        self.control(&Control::Signal { number }).await
    }

    /// Changes the size of the command's terminal.
    ///
    /// # Errors
    ///
    /// When the command is over.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), AccessError> {
        self.control(&Control::Resize(size)).await
    }

    /// Kills the command and everything it started.
    ///
    /// # Errors
    ///
    /// When the command is over.
    pub async fn kill(&mut self) -> Result<(), AccessError> {
        self.control(&Control::Kill).await
    }

    async fn control(&mut self, control: &Control) -> Result<(), AccessError> {
        Ok(self.sink.send(Frame::message(control)?).await?)
    }
}

impl ProcessOutput {
    /// Returns what comes next; after [`Output::End`] nothing does. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the guest breaks the protocol.
    pub async fn next(&mut self) -> Result<Output, AccessError> {
        let frame = match self.deadline {
            None => self.stream.next().await,
            Some(deadline) => {
                // Whoever reads slowly still gets what is on its way; only silence ends the wait.
                let deadline = deadline.max(Instant::now() + TIMEOUT_SLACK);
                match tokio::time::timeout_at(deadline, self.stream.next()).await {
                    Ok(frame) => frame,
                    Err(_) => return Ok(self.end(EndReason::Guest(ExitReason::TimedOut))),
                }
            }
        };
        match frame {
            Some(Ok(frame)) => self.output_of(frame),
            Some(Err(FrameError::Io(_))) | None => {
                let reason = EndReason::of_loss(&self.access).await;
                Ok(self.end(reason))
            }
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn output_of(&self, frame: Frame) -> Result<Output, AccessError> {
        match frame.kind {
            FrameKind::Output => Ok(Output::Stdout(frame.payload)),
            FrameKind::ErrorOutput => Ok(Output::Stderr(frame.payload)),
            FrameKind::Message => match frame.parse()? {
                Event::Exited(exit) => Ok(self.end(EndReason::Guest(exit.reason))),
                Event::Refused(refusal) => Err(AccessError::Refused(refusal)),
                _ => Err(AccessError::Unexpected),
            },
            FrameKind::Input | FrameKind::End => Err(AccessError::Unexpected),
        }
    }

    fn end(&self, reason: EndReason) -> Output {
        Output::End(End {
            reason,
            elapsed: self.started.elapsed(),
        })
    }
}
