//! Jobs: commands of a sandbox that outlive the Python process that started them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};
use smolvm_sandbox::message::{JobStatus, StartJob};
use smolvm_sandbox::{
    AccessError, End, EndReason, JobEvent, JobOutput, Output, ProcessInput, random_job_name,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::command::{CommandArguments, patience};
use crate::core::Core;
use crate::failure::Failure;
use crate::operation::Operation;
use crate::process;
use crate::sandbox::Sandbox;

/// How long a signal may take to get through to a guest.
const CONTROL_PATIENCE: Duration = Duration::from_secs(2);

/// Starts a job and returns its name.
#[pyfunction]
pub(crate) fn start_job(
    py: Python<'_>,
    sandbox: &Sandbox,
    command: CommandArguments<'_>,
    name: Option<String>,
    buffer_bytes: u32,
) -> PyResult<Operation> {
    let job = StartJob {
        id: name.unwrap_or_else(random_job_name),
        exec: command.exec(py)?,
        buffer_bytes,
    };
    let core = sandbox.core().clone();
    let work = async move {
        core.ensure_started().await?;
        let id = job.id.clone();
        core.access().start_job(job).await?;
        Ok::<_, Failure>(id)
    };
    Ok(Operation::new(work, |py, id| id.into_py_any(py)))
}

/// Lists the jobs of a sandbox.
#[pyfunction]
pub(crate) fn list_jobs(sandbox: &Sandbox) -> Operation {
    let core = sandbox.core().clone();
    let work = async move { core.access().list_jobs().await };
    Operation::new(work, |py, jobs| {
        let jobs: PyResult<Vec<_>> = jobs.iter().map(|job| status(py, job)).collect();
        jobs?.into_py_any(py)
    })
}

/// Kills a job, if it runs, and forgets its output.
#[pyfunction]
pub(crate) fn remove_job(sandbox: &Sandbox, name: String) -> Operation {
    let core = sandbox.core().clone();
    Operation::silent(async move { core.access().remove_job(&name).await })
}

/// Waits for the end of a job.
#[pyfunction]
pub(crate) fn wait_job(
    sandbox: &Sandbox,
    name: String,
    timeout: Option<Bound<'_, PyAny>>,
) -> PyResult<Operation> {
    let patience = timeout.map(|timeout| patience("timeout", &timeout));
    let patience = patience.transpose()?;
    let core = sandbox.core().clone();
    let work =
        async move {
            let end = end_of(core, &name);
            match patience {
                Some((seconds, patience)) => tokio::time::timeout(patience, end).await.unwrap_or(
                    Err(Failure::StillRunning {
                        seconds,
                        is_full: false,
                    }),
                ),
                None => end.await,
            }
        };
    Ok(Operation::new(work, |py, end| process::exit(py, &end)))
}

async fn end_of(core: Arc<Core>, name: &str) -> Result<End, Failure> {
    let known = core.access().list_jobs().await?;
    // What is written already is of no interest here.
    let written = known.iter().find(|job| job.id == name);
    let cursor = written.map_or(0, |job| job.written);
    let mut output = core.access().attach_job(name, cursor).await?.output;
    loop {
        if let JobEvent::Output(Output::End(end)) = output.next().await? {
            return Ok(end);
        }
    }
}

/// Attaches to a job whose first `cursor` bytes of output are known.
#[pyfunction]
pub(crate) fn attach_job(sandbox: &Sandbox, name: String, cursor: u64) -> Operation {
    let core = sandbox.core().clone();
    let work = async move {
        let attached = core.access().attach_job(&name, cursor).await?;
        Ok::<_, AccessError>(AttachedJob {
            attached: Arc::new(Attached {
                input: AsyncMutex::new(attached.input),
                reading: AsyncMutex::new(Reading {
                    output: attached.output,
                    last: None,
                }),
            }),
            pid: attached.status.pid,
            owner: std::process::id(),
        })
    };
    Operation::new(work, |py, attached| attached.into_py_any(py))
}

/// What holds on to a job. The job goes on when this goes.
#[pyclass(frozen, module = "smolvm._native")]
pub(crate) struct AttachedJob {
    attached: Arc<Attached>,
    pid: u32,
    /// The process of the host that attached.
    owner: u32,
}

struct Attached {
    input: AsyncMutex<ProcessInput>,
    reading: AsyncMutex<Reading>,
}

struct Reading {
    output: JobOutput,
    /// What came last. Given out again to whoever has not seen it because its wait was cancelled.
    last: Option<Piece>,
}

#[derive(Clone)]
struct Piece {
    start: u64,
    end: u64,
    event: JobEvent,
}

impl Reading {
    /// Returns what comes at the place `cursor`: what came last, or what comes next.
    async fn at(&mut self, cursor: u64) -> Result<Piece, AccessError> {
        if let Some(last) = &self.last
            && (last.start == cursor || matches!(last.event, JobEvent::Output(Output::End(_))))
        {
            return Ok(last.clone());
        }
        let start = self.output.cursor();
        let event = self.output.next().await?;
        let piece = Piece {
            start,
            end: self.output.cursor(),
            event,
        };
        Ok(self.last.insert(piece).clone())
    }
}

impl AttachedJob {
    fn attached(&self, py: Python<'_>) -> PyResult<Arc<Attached>> {
        if self.owner == std::process::id() {
            Ok(self.attached.clone())
        } else {
            Err(Failure::NotInFork.into_py_err(py))
        }
    }

    fn tell(&self, py: Python<'_>, what: Told) -> PyResult<Operation> {
        Ok(Operation::silent(tell(self.attached(py)?, what)))
    }
}

/// What a job is told.
enum Told {
    Input(Bytes),
    EndOfInput,
    Signal(i32),
    Kill,
}

async fn tell(attached: Arc<Attached>, what: Told) -> Result<(), Failure> {
    let is_input = matches!(what, Told::Input(_));
    let telling = async {
        let mut input = attached.input.lock().await;
        match what {
            Told::Input(bytes) => input.write(bytes).await,
            Told::EndOfInput => input.close().await,
            Told::Signal(number) => input.signal(number).await,
            Told::Kill => input.kill().await,
        }
    };
    let told = if is_input {
        telling.await
    } else {
        tokio::time::timeout(CONTROL_PATIENCE, telling)
            .await
            .map_err(|_| Failure::NotInTime {
                operation: "control a job",
                seconds: CONTROL_PATIENCE.as_secs_f64(),
            })?
    };
    // Only a connection that has ended takes nothing.
    told.map_err(|_| Failure::CommandOver)
}

#[pymethods]
impl AttachedJob {
    /// Its process ID in the guest.
    #[getter]
    fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns what comes at the place `cursor`, and the place after it.
    fn read(&self, py: Python<'_>, cursor: u64) -> PyResult<Operation> {
        let attached = self.attached(py)?;
        let work = async move { attached.reading.lock().await.at(cursor).await };
        Ok(Operation::new(work, piece))
    }

    /// Writes to its standard input, and waits while it does not read.
    fn write(&self, py: Python<'_>, data: Vec<u8>) -> PyResult<Operation> {
        self.tell(py, Told::Input(Bytes::from(data)))
    }

    /// Ends its standard input, for everybody who is attached.
    fn close_stdin(&self, py: Python<'_>) -> PyResult<Operation> {
        self.tell(py, Told::EndOfInput)
    }

    /// Sends a signal to its process group.
    fn send_signal(&self, py: Python<'_>, number: i32) -> PyResult<Operation> {
        process::check_signal(number).map_err(|failure| failure.into_py_err(py))?;
        self.tell(py, Told::Signal(number))
    }

    /// Kills it and everything it started; its output stays.
    fn kill(&self, py: Python<'_>) -> PyResult<Operation> {
        self.tell(py, Told::Kill)
    }
}

impl Drop for AttachedJob {
    fn drop(&mut self) {
        if self.owner != std::process::id() {
            // In a child made by fork(2) the connection is the parent's.
            std::mem::forget(self.attached.clone());
        }
    }
}

/// Makes a tuple of stream, bytes or number of lost bytes or end, and place after it.
fn piece(py: Python<'_>, piece: Piece) -> PyResult<Py<PyAny>> {
    let (name, content) = match piece.event {
        JobEvent::Output(Output::Stdout(bytes)) => {
            ("stdout", PyBytes::new(py, &bytes).into_any().unbind())
        }
        JobEvent::Output(Output::Stderr(bytes)) => {
            ("stderr", PyBytes::new(py, &bytes).into_any().unbind())
        }
        JobEvent::Output(Output::End(end)) => ("end", process::exit(py, &end)?),
        JobEvent::Lost(bytes) => ("lost", bytes.into_py_any(py)?),
    };
    (name, content, piece.end).into_py_any(py)
}

/// Makes Python's `JobStatus`.
fn status(py: Python<'_>, job: &JobStatus) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

    let class = CLASS.import(py, "smolvm.types", "JobStatus")?;
    let exit = job.exit.map(|exit| End {
        reason: EndReason::Guest(exit.reason),
        elapsed: Duration::from_millis(exit.elapsed_ms),
    });
    let exit = exit.map(|end| process::exit(py, &end)).transpose()?;
    let status = class.call1((&job.id, job.pid, exit, job.oldest, job.written))?;
    Ok(status.unbind())
}
