//! Running a command to its end, with its output in memory.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use smolvm_sandbox::message::{Exec, ExitReason};
use smolvm_sandbox::{EndReason, ExecError, Output};

use crate::command::Timeout;
use crate::core::Core;
use crate::failure::{Failure, text};

/// Most bytes of both outputs together: far more than a caller reads, far less than a host has.
pub(crate) const MAX_OUTPUT_BYTES: usize = 512 * 1024 * 1024;

/// How a command ended, and all that it wrote.
pub(crate) struct Finished {
    reason: EndReason,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    elapsed: Duration,
}

/// Runs `exec` to its end. Whoever stops waiting ends it.
pub(crate) async fn run(
    core: Arc<Core>,
    exec: Exec,
    timeout: Timeout,
) -> Result<Finished, Failure> {
    core.ensure_started().await?;
    let timed_out = |stdout, stderr| Failure::TimedOut {
        operation: "run",
        seconds: timeout.seconds,
        stdout,
        stderr,
    };
    let mut process = match core.access().exec(exec).await {
        Ok(process) => process,
        Err(ExecError::NotStarted { .. }) => return Err(timed_out(Vec::new(), Vec::new())),
        Err(error) => return Err(error.into()),
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let end = loop {
        match process.output.next().await? {
            Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            Output::End(end) => break end,
        }
        if stdout.len() + stderr.len() > MAX_OUTPUT_BYTES {
            return Err(Failure::TooMuchOutput {
                max_bytes: MAX_OUTPUT_BYTES,
            });
        }
    };
    match end.reason {
        EndReason::Guest(ExitReason::TimedOut) => Err(timed_out(stdout, stderr)),
        EndReason::SandboxStopped | EndReason::GuestDied { .. } => Err(Failure::SandboxEnded {
            reason: end.reason,
            stdout,
            stderr,
        }),
        EndReason::Guest(_) => Ok(Finished {
            reason: end.reason,
            stdout,
            stderr,
            elapsed: end.elapsed,
        }),
    }
}

/// Makes Python's `CommandResult`.
pub(crate) fn result(py: Python<'_>, finished: &Finished) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

    let class = CLASS.import(py, "smolvm.types", "CommandResult")?;
    let duration_ms = u64::try_from(finished.elapsed.as_millis()).unwrap_or(u64::MAX);
    let result = class.call1((
        finished.reason.exit_code(),
        text(py, &finished.stdout)?,
        text(py, &finished.stderr)?,
        finished.reason.as_str(),
        duration_ms,
    ))?;
    Ok(result.unbind())
}
