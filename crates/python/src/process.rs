//! `Process`: a command that runs while Python reads from it and writes to it.

mod streams;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};
use smolvm_sandbox::message::{ExitReason, TerminalSize};
use smolvm_sandbox::{AccessError, End, EndReason, ProcessInput};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::AbortHandle;

use crate::command::{Patience, patience};
use crate::core::Core;
use crate::failure::{Failure, text};
use crate::operation::Operation;
use crate::process::streams::{Piece, Streams, Which};
use crate::run::MAX_OUTPUT_BYTES;

/// How long a signal may take to get through to a guest whose command does not read its input.
const CONTROL_PATIENCE: Duration = Duration::from_secs(2);

/// Fewest bytes that are read at once: those of the longest character.
const MIN_READ_BYTES: usize = 4;

/// What holds on to a running command. It is killed when this goes.
#[derive(Debug)]
struct Running {
    streams: Arc<Streams>,
    /// Gone when the command is over.
    input: Arc<AsyncMutex<Option<ProcessInput>>>,
    pump: AbortHandle,
    pid: u32,
    /// The process of the host that started it.
    owner: u32,
}

impl Drop for Running {
    fn drop(&mut self) {
        // In a child made by fork(2) the pump and the connection are the parent's.
        if self.is_ours() {
            self.pump.abort();
        } else {
            std::mem::forget(self.input.clone());
        }
    }
}

impl Running {
    fn is_ours(&self) -> bool {
        self.owner == std::process::id()
    }

    /// Does `step` with the way into the command, unless the command ends first.
    async fn with_input<F>(&self, step: F) -> Result<(), Failure>
    where
        F: AsyncFnOnce(&mut ProcessInput) -> Result<(), AccessError>,
    {
        let steps = async {
            let mut input = self.input.lock().await;
            let input = input.as_mut().ok_or(Failure::CommandOver)?;
            step(input).await.map_err(|_| Failure::CommandOver)
        };
        tokio::select! {
            biased;
            _ = self.streams.ended() => Err(Failure::CommandOver),
            done = steps => done,
        }
    }

    /// Does `step` soon, also while a write waits for the command to read.
    async fn control<F>(&self, operation: &'static str, step: F) -> Result<(), Failure>
    where
        F: AsyncFnOnce(&mut ProcessInput) -> Result<(), AccessError>,
    {
        tokio::time::timeout(CONTROL_PATIENCE, self.with_input(step))
            .await
            .unwrap_or(Err(Failure::NotInTime {
                operation,
                seconds: CONTROL_PATIENCE.as_secs_f64(),
            }))
    }

    /// Kills the command; one that is over stays as it is.
    async fn kill(&self) -> Result<(), Failure> {
        let asked = self.control("kill", async |input| input.kill().await);
        match asked.await {
            Ok(()) | Err(Failure::CommandOver) => {}
            // Closing the connection says the same.
            Err(_) => self.streams.abandon(),
        }
        Ok(())
    }

    /// Waits for the command's end.
    async fn wait(&self, patience: Option<Patience>) -> Result<End, Failure> {
        let limit = patience.map(|(_, duration)| duration);
        match (self.streams.ended_within(limit).await, patience) {
            (None, Some((seconds, _))) => Err(Failure::StillRunning {
                seconds,
                is_full: self.streams.is_full(),
            }),
            (Some(end), _) => Ok(end),
            (None, None) => unreachable!("waiting without a limit ends with the command"),
        }
    }
}

/// A running command. Nothing but the guest decides how it ends, unless everything that holds on
/// to it goes: then it is killed.
#[pyclass(frozen, module = "smolvm._native")]
pub(crate) struct Process {
    running: Arc<Running>,
}

/// Starts a command.
pub(crate) async fn start(
    core: Arc<Core>,
    exec: smolvm_sandbox::message::Exec,
    is_text: bool,
) -> Result<Process, Failure> {
    core.ensure_started().await?;
    let process = core.access().exec(exec).await?;
    let streams = Streams::new(is_text);
    let input = Arc::new(AsyncMutex::new(Some(process.input)));
    let output = process.output;
    let pump = {
        let (streams, input) = (streams.clone(), input.clone());
        tokio::spawn(async move {
            streams.pump(output).await;
            // Whoever writes stops now; then the connection closes.
            input.lock().await.take();
        })
    };
    Ok(Process {
        running: Arc::new(Running {
            streams,
            input,
            pump: pump.abort_handle(),
            pid: process.pid,
            owner: std::process::id(),
        }),
    })
}

impl Process {
    fn running(&self) -> Result<Arc<Running>, Failure> {
        if self.running.is_ours() {
            Ok(self.running.clone())
        } else {
            Err(Failure::NotInFork)
        }
    }

    /// Returns an operation on the command.
    fn operation<T, F>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(Arc<Running>) -> F,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Operation>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let running = self.running().map_err(|failure| failure.into_py_err(py))?;
        Ok(Operation::new(work(running), convert).eager())
    }

    fn read_piece(&self, py: Python<'_>, which: &str, piece: Piece) -> PyResult<Operation> {
        let which = output(py, which)?;
        let is_text = self.running.streams.is_text();
        self.operation(
            py,
            |running| async move { Ok(running.streams.read(which, piece).await) },
            move |py, bytes| content(py, &bytes, is_text),
        )
    }
}

#[pymethods]
impl Process {
    /// Its process ID in the guest.
    #[getter]
    fn pid(&self) -> u32 {
        self.running.pid
    }

    /// Returns how it ended, or `None` while it runs.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let running = self.running().map_err(|failure| failure.into_py_err(py))?;
        let end = running.streams.end();
        end.map(|end| exit(py, &end)).transpose()
    }

    /// Waits for its end.
    fn wait(&self, py: Python<'_>, timeout: Option<Bound<'_, PyAny>>) -> PyResult<Operation> {
        let patience = timeout.map(|timeout| patience("timeout", &timeout));
        let patience = patience.transpose()?;
        self.operation(
            py,
            |running| async move { running.wait(patience).await },
            |py, end| exit(py, &end),
        )
    }

    /// Reads at least one byte of an output and at most `max_bytes`; nothing at its end.
    fn read(&self, py: Python<'_>, output: &str, max_bytes: usize) -> PyResult<Operation> {
        self.read_piece(py, output, Piece::UpTo(max_bytes.max(MIN_READ_BYTES)))
    }

    /// Reads a line of an output; nothing at its end.
    fn read_line(&self, py: Python<'_>, output: &str) -> PyResult<Operation> {
        self.read_piece(py, output, Piece::Line)
    }

    /// Reads an output to its end.
    fn read_all(&self, py: Python<'_>, output: &str) -> PyResult<Operation> {
        let which = self::output(py, output)?;
        let is_text = self.running.streams.is_text();
        self.operation(
            py,
            |running| async move { running.streams.read_all(which, MAX_OUTPUT_BYTES).await },
            move |py, bytes| content(py, &bytes, is_text),
        )
    }

    /// Reads a piece of either output, with the output's name; `None` at the end of both.
    fn read_any(&self, py: Python<'_>) -> PyResult<Operation> {
        let is_text = self.running.streams.is_text();
        self.operation(
            py,
            |running| async move { Ok(running.streams.read_any().await) },
            move |py, piece| match piece {
                None => Ok(py.None()),
                Some((which, bytes)) => {
                    let name = match which {
                        Which::Stdout => "stdout",
                        Which::Stderr => "stderr",
                    };
                    (name, content(py, &bytes, is_text)?).into_py_any(py)
                }
            },
        )
    }

    /// Has an output dropped from now on.
    fn discard(&self, py: Python<'_>, output: &str) -> PyResult<()> {
        let which = self::output(py, output)?;
        let running = self.running().map_err(|failure| failure.into_py_err(py))?;
        running.streams.discard(which);
        Ok(())
    }

    /// Writes to its standard input, and waits while it does not read.
    fn write(&self, py: Python<'_>, data: Vec<u8>) -> PyResult<Operation> {
        self.operation(
            py,
            |running| async move {
                let data = Bytes::from(data);
                running
                    .with_input(async |input| input.write(data).await)
                    .await
            },
            |py, ()| Ok(py.None()),
        )
    }

    /// Closes its standard input.
    fn close_stdin(&self, py: Python<'_>) -> PyResult<Operation> {
        self.operation(
            py,
            |running| async move {
                match running.with_input(async |input| input.close().await).await {
                    // Its input went with it.
                    Err(Failure::CommandOver) => Ok(()),
                    closed => closed,
                }
            },
            |py, ()| Ok(py.None()),
        )
    }

    /// Writes all of `data`, closes the input and reads both outputs to their end.
    fn communicate(
        &self,
        py: Python<'_>,
        data: Option<Vec<u8>>,
        timeout: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Operation> {
        let patience = timeout.map(|timeout| patience("timeout", &timeout));
        let patience = patience.transpose()?;
        let is_text = self.running.streams.is_text();
        self.operation(
            py,
            |running| async move { communicate(&running, data, patience).await },
            move |py, (stdout, stderr)| {
                let both = (
                    content(py, &stdout, is_text)?,
                    content(py, &stderr, is_text)?,
                );
                both.into_py_any(py)
            },
        )
    }

    /// Sends a signal to its process group.
    fn send_signal(&self, py: Python<'_>, number: i32) -> PyResult<Operation> {
        check_signal(number).map_err(|failure| failure.into_py_err(py))?;
        self.operation(
            py,
            |running| async move {
                let sent = running
                    .control("send_signal", async |input| input.signal(number).await)
                    .await;
                match sent {
                    // As with kill(2) of a process that nobody has waited for yet.
                    Err(Failure::CommandOver) => Ok(()),
                    sent => sent,
                }
            },
            |py, ()| Ok(py.None()),
        )
    }

    /// Kills it and everything it started.
    fn kill(&self, py: Python<'_>) -> PyResult<Operation> {
        self.operation(
            py,
            |running| async move { running.kill().await },
            |py, ()| Ok(py.None()),
        )
    }

    /// Changes the size of its terminal.
    fn resize(&self, py: Python<'_>, rows: u16, columns: u16) -> PyResult<Operation> {
        let size = TerminalSize { rows, columns };
        self.operation(
            py,
            |running| async move {
                running
                    .control("resize", async |input| input.resize(size).await)
                    .await
            },
            |py, ()| Ok(py.None()),
        )
    }
}

/// Checks the number of a signal.
pub(crate) fn check_signal(number: i32) -> Result<(), Failure> {
    if (1..=64).contains(&number) {
        return Ok(());
    }
    let message = format!("{number} is no Linux signal: those are 1 to 64");
    Err(Failure::argument("signal", message))
}

async fn communicate(
    running: &Running,
    data: Option<Vec<u8>>,
    patience: Option<Patience>,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let feed = async {
        if let Some(data) = data {
            let data = Bytes::from(data);
            let write = async |input: &mut ProcessInput| {
                input.write(data).await?;
                input.close().await
            };
            match running.with_input(write).await {
                // It did not want all of its input, as with a pipe.
                Ok(()) | Err(Failure::CommandOver) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    };
    let all = async {
        let ((), stdout, stderr) = tokio::try_join!(
            feed,
            running.streams.read_all(Which::Stdout, MAX_OUTPUT_BYTES),
            running.streams.read_all(Which::Stderr, MAX_OUTPUT_BYTES),
        )?;
        Ok((stdout, stderr))
    };
    match patience {
        None => all.await,
        Some((seconds, patience)) => {
            tokio::time::timeout(patience, all)
                .await
                .unwrap_or(Err(Failure::StillRunning {
                    seconds,
                    is_full: false,
                }))
        }
    }
}

fn output(py: Python<'_>, name: &str) -> PyResult<Which> {
    match name {
        "stdout" => Ok(Which::Stdout),
        "stderr" => Ok(Which::Stderr),
        _ => Err(Failure::argument("output", "use 'stdout' or 'stderr'").into_py_err(py)),
    }
}

fn content(py: Python<'_>, bytes: &[u8], is_text: bool) -> PyResult<Py<PyAny>> {
    if is_text {
        Ok(text(py, bytes)?.unbind())
    } else {
        Ok(PyBytes::new(py, bytes).into_any().unbind())
    }
}

/// Makes Python's `ProcessExit`.
pub(crate) fn exit(py: Python<'_>, end: &End) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

    let class = CLASS.import(py, "smolvm.types", "ProcessExit")?;
    let signal = match &end.reason {
        EndReason::Guest(ExitReason::Signalled { number }) => Some(*number),
        _ => None,
    };
    let (message, console_tail) = match &end.reason {
        EndReason::GuestDied {
            message,
            console_tail,
        } => (Some(message.as_str()), console_tail.as_slice()),
        _ => (None, [].as_slice()),
    };
    let duration_ms = u64::try_from(end.elapsed.as_millis()).unwrap_or(u64::MAX);
    let exit = class.call1((
        end.reason.as_str(),
        end.reason.exit_code(),
        signal,
        duration_ms,
        message,
        console_tail,
    ))?;
    Ok(exit.unbind())
}
