//! A command in a guest, with this program's input, outputs and signals joined to it.
//!
//! ```text
//!   stdin, signals, window size --> [steer] --> guest --> [pump] --> stdout, stderr
//! ```
//!
//! Two futures run side by side, so that a signal gets through while an output is stuck.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use smolvm_sandbox::message::Exec;
use smolvm_sandbox::{AccessError, End, ErrorKind, Output, ProcessInput, ProcessOutput, Sandbox};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use crate::failure::{BROKEN_PIPE, Failure};
use crate::interrupts::Interrupts;
use crate::terminal::{self, RawTerminal};

/// Bytes read from standard input at once: a pipe's capacity (pipe(7)).
const INPUT_BYTES: usize = 64 * 1024;

/// Most that is kept of each output for a JSON document.
const MAX_CAPTURED_BYTES: usize = 64 * 1024 * 1024;

/// How long a command has to end after a SIGTERM or SIGHUP that was passed on to it.
const TERMINATION_GRACE: Duration = Duration::from_secs(5);

/// How long a signal may take to get through to a guest whose command does not read its input.
const CONTROL_PATIENCE: Duration = Duration::from_millis(500);

/// Where a command's output goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// To this program's outputs, byte for byte.
    PassedOn {
        stdout: tokio::io::Stdout,
        stderr: tokio::io::Stderr,
    },
    /// Into memory.
    Captured { stdout: Capture, stderr: Capture },
}

/// An output kept in memory, up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    pub(crate) bytes: Vec<u8>,
    /// Whether there was more than is kept.
    pub(crate) is_truncated: bool,
}

impl Sink {
    pub(crate) fn new(is_captured: bool) -> Self {
        if is_captured {
            Self::Captured {
                stdout: Capture::default(),
                stderr: Capture::default(),
            }
        } else {
            Self::PassedOn {
                stdout: tokio::io::stdout(),
                stderr: tokio::io::stderr(),
            }
        }
    }

    async fn stdout(&mut self, bytes: Bytes) -> io::Result<()> {
        match self {
            Self::PassedOn { stdout, .. } => {
                stdout.write_all(&bytes).await?;
                stdout.flush().await
            }
            Self::Captured { stdout, .. } => {
                stdout.push(&bytes);
                Ok(())
            }
        }
    }

    async fn stderr(&mut self, bytes: Bytes) -> io::Result<()> {
        match self {
            Self::PassedOn { stderr, .. } => {
                stderr.write_all(&bytes).await?;
                stderr.flush().await
            }
            Self::Captured { stderr, .. } => {
                stderr.push(&bytes);
                Ok(())
            }
        }
    }
}

impl Capture {
    fn push(&mut self, bytes: &[u8]) {
        let room = MAX_CAPTURED_BYTES - self.bytes.len();
        let kept = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.is_truncated |= kept < bytes.len();
    }
}

/// Why a session is over before its command has ended.
#[derive(Debug)]
enum Broken {
    /// Nobody reads an output any more.
    OutputClosed,
    /// An output cannot be written.
    Output(io::Error),
    /// The guest cannot be understood.
    Access(AccessError),
    /// A signal asks for the end, and the command cannot be told or does not listen.
    Abandoned { signal: i32 },
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::OutputClosed => Self::quiet(BROKEN_PIPE),
            Broken::Output(error) => {
                Self::new(ErrorKind::Host, format!("write the output: {error}"))
            }
            Broken::Access(error) => error.into(),
            Broken::Abandoned { signal } => Self::interrupted(signal),
        }
    }
}

/// Runs `exec` in `sandbox` and returns how it ended. Whatever else ends this, the command ends.
pub(crate) async fn run(
    sandbox: &Sandbox,
    exec: Exec,
    sink: &mut Sink,
    interrupts: &mut Interrupts,
) -> Result<End, Failure> {
    let is_reading = exec.stdin;
    let on_terminal = exec.terminal.is_some();
    let mut process = tokio::select! {
        process = sandbox.exec(exec) => process?,
        signal = interrupts.next() => return Err(Failure::interrupted(signal)),
    };
    let terminal_error =
        |error: io::Error| Failure::new(ErrorKind::Host, format!("use the terminal: {error}"));
    let (_raw, resized) = if on_terminal {
        let raw = RawTerminal::enter().map_err(terminal_error)?;
        let resized = signal(SignalKind::window_change()).map_err(terminal_error)?;
        (raw, Some(resized))
    } else {
        (None, None)
    };
    let steering = Steering {
        input: &mut process.input,
        interrupts,
        resized,
        is_reading,
        received: 0,
        kill_at: None,
    };
    let end = tokio::select! {
        end = pump(&mut process.output, sink) => end,
        signal = steering.run() => Err(Broken::Abandoned { signal }),
    };
    Ok(end?)
}

/// Passes what comes out of a command on until it has ended.
async fn pump(output: &mut ProcessOutput, sink: &mut Sink) -> Result<End, Broken> {
    loop {
        let written = match output.next().await.map_err(Broken::Access)? {
            Output::Stdout(bytes) => sink.stdout(bytes).await,
            Output::Stderr(bytes) => sink.stderr(bytes).await,
            Output::End(end) => return Ok(end),
        };
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Broken::OutputClosed,
            _ => Broken::Output(error),
        })?;
    }
}

/// The way from this program into a running command.
struct Steering<'a> {
    input: &'a mut ProcessInput,
    interrupts: &'a mut Interrupts,
    resized: Option<Signal>,
    /// Whether standard input is still passed on.
    is_reading: bool,
    /// Signals received so far.
    received: u32,
    /// When the command is killed, after a signal that asked it to end.
    kill_at: Option<Instant>,
}

impl Steering<'_> {
    /// Passes input, signals and sizes on, until the command cannot be steered any more. Returns
    /// the signal that could not be passed on.
    async fn run(mut self) -> i32 {
        let mut stdin = tokio::io::stdin();
        let mut buffer = BytesMut::with_capacity(INPUT_BYTES);
        loop {
            let kill_at = self.kill_at;
            let outcome = tokio::select! {
                read = stdin.read_buf(&mut buffer), if self.is_reading => match read {
                    Ok(1..) => self.pass_on(buffer.split().freeze()).await,
                    // What cannot be read has ended, for the command.
                    Ok(0) | Err(_) => self.end_input().await,
                },
                signal = self.interrupts.next() => self.deliver(signal).await,
                () = window_changed(&mut self.resized) => self.resize().await,
                () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                    self.kill().await
                }
            };
            if let Err(signal) = outcome {
                return signal;
            }
            buffer.reserve(INPUT_BYTES);
        }
    }

    /// Passes input on. A command that does not read blocks this, but not a signal.
    async fn pass_on(&mut self, bytes: Bytes) -> Result<(), i32> {
        let signal = {
            let write = self.input.write(bytes);
            tokio::pin!(write);
            tokio::select! {
                written = &mut write => {
                    // An input that nobody takes any more is the command's end, which comes.
                    self.is_reading = written.is_ok();
                    return Ok(());
                }
                signal = self.interrupts.next() => {
                    // A frame that is half sent would garble whatever follows it.
                    match timeout(CONTROL_PATIENCE, &mut write).await {
                        Ok(_) => signal,
                        Err(_) => return Err(signal),
                    }
                }
            }
        };
        self.deliver(signal).await
    }

    async fn end_input(&mut self) -> Result<(), i32> {
        self.is_reading = false;
        // The command may be over already; its end comes on the other way.
        let _over = timeout(CONTROL_PATIENCE, self.input.close()).await;
        Ok(())
    }

    /// Passes a signal on; the second one kills the command, the third gives it up.
    async fn deliver(&mut self, signal: i32) -> Result<(), i32> {
        self.received += 1;
        match self.received {
            1 => {
                if signal != SignalKind::interrupt().as_raw_value() {
                    self.kill_at = Some(Instant::now() + TERMINATION_GRACE);
                }
                let sent = timeout(CONTROL_PATIENCE, self.input.signal(signal)).await;
                sent.map(|_over| ()).map_err(|_| signal)
            }
            2 => self.kill().await.map_err(|_| signal),
            _ => Err(signal),
        }
    }

    async fn kill(&mut self) -> Result<(), i32> {
        self.kill_at = None;
        let sent = timeout(CONTROL_PATIENCE, self.input.kill()).await;
        sent.map(|_over| ())
            .map_err(|_| SignalKind::terminate().as_raw_value())
    }

    async fn resize(&mut self) -> Result<(), i32> {
        // A size that does not get through is wrong until the next one.
        let _late = timeout(CONTROL_PATIENCE, self.input.resize(terminal::size())).await;
        Ok(())
    }
}

async fn window_changed(resized: &mut Option<Signal>) {
    if let Some(signal) = resized
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}
