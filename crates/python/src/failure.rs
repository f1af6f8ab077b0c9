//! The one table from what fails to the Python class that says so.
//!
//! The classes are written down in `smolvm/exceptions.py`, because only CPython 3.12 and newer
//! lets extensions for the stable ABI derive from exceptions; every instance is made here.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyType};
use smolvm_image::{CacheError, KeyPairError, PublicKeyError, SshImageError};
use smolvm_sandbox::message::{Refusal, RefusalCode};
use smolvm_sandbox::{
    AccessError, ArtifactError, BrowserConfigError, BrowserError, CopyError, CreateError,
    EndReason, EnvError, ErrorKind, ExecError, LogError, NetworkError, PageError, SettingsError,
    SpecError, StartError, StoreError,
};

/// Why a call from Python fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An argument is not legal.
    #[error("{field}: {message}")]
    Argument {
        /// Its name.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// A value of the specification is not legal.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox could not be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The sandbox could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The sandbox could not be reached, or the guest refused.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The command could not be run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Files could not be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Environment variables could not be read or changed.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The older settings of the network are not legal.
    #[error(transparent)]
    InternetSettings(#[from] SettingsError),
    /// What a sandbox may reach could not be changed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A browser session cannot be as asked.
    #[error(transparent)]
    BrowserConfig(#[from] BrowserConfigError),
    /// A browser session cannot be had or used.
    #[error(transparent)]
    Browser(#[from] Box<BrowserError>),
    /// An image cannot be built.
    #[error(transparent)]
    Image(#[from] Box<SshImageError>),
    /// The cache of images cannot be used.
    #[error(transparent)]
    Cache(#[from] Box<CacheError>),
    /// It is no public key.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// There is no pair of keys.
    #[error(transparent)]
    KeyPair(#[from] KeyPairError),
    /// A file of the host cannot be used.
    #[error("{action}")]
    Host {
        /// What was attempted, with the path.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A command took too long.
    #[error("{operation} took longer than {seconds} s")]
    TimedOut {
        /// What took too long.
        operation: &'static str,
        /// How long it had.
        seconds: f64,
        /// What it had written until then.
        stdout: Vec<u8>,
        /// What it had written to its error output until then.
        stderr: Vec<u8>,
    },
    /// The sandbox ended while a command ran.
    #[error("the sandbox ended while the command ran")]
    SandboxEnded {
        /// Why.
        reason: EndReason,
        /// What it had written until then.
        stdout: Vec<u8>,
        /// What it had written to its error output until then.
        stderr: Vec<u8>,
    },
    /// A command has not ended in the time that a caller waits.
    #[error("the command still runs after {seconds} s")]
    StillRunning {
        /// How long the caller waited.
        seconds: f64,
        /// Whether the command waits for its output to be read.
        is_full: bool,
    },
    /// The guest has not come up in the time it was given.
    #[error("the guest did not come up within {seconds} s")]
    StartTimedOut {
        /// How long it had.
        seconds: f64,
        /// What it did instead.
        #[source]
        source: Box<StartError>,
    },
    /// The guest has not taken a signal in time.
    #[error("{operation}: the guest did not take it within {seconds} s")]
    NotInTime {
        /// What was to be done.
        operation: &'static str,
        /// How long it had.
        seconds: f64,
    },
    /// There is nothing left to write to.
    #[error("the command is over")]
    CommandOver,
    /// The process was started before a fork, by the parent.
    #[error("this command belongs to the process that started it, not to its fork")]
    NotInFork,
    /// A command wrote more than one result can hold.
    #[error("the command wrote more than {max_bytes} bytes; send its output to a file")]
    TooMuchOutput {
        /// The most there may be.
        max_bytes: usize,
    },
}

impl From<BrowserError> for Failure {
    /// Takes errors of the session's sandbox for what they are.
    fn from(error: BrowserError) -> Self {
        match error {
            BrowserError::Create(error) => (*error).into(),
            BrowserError::Start(error) => (*error).into(),
            BrowserError::Exec(error) => error.into(),
            BrowserError::Access(error)
            | BrowserError::Artifact(ArtifactError::Access(error))
            | BrowserError::Page(PageError::Access(error)) => error.into(),
            BrowserError::Store(error) => error.into(),
            error => Self::Browser(Box::new(error)),
        }
    }
}

impl Failure {
    pub(crate) fn argument(field: &str, message: impl Into<String>) -> Self {
        Self::Argument {
            field: field.to_owned(),
            message: message.into(),
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Argument { .. } => ErrorKind::InvalidInput,
            Self::Spec(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Create(error) => error.kind(),
            Self::Start(error) => error.kind(),
            Self::Access(error) => error.kind(),
            Self::Exec(error) => error.kind(),
            Self::Copy(error) => error.kind(),
            Self::Env(error) => error.kind(),
            Self::InternetSettings(_) => ErrorKind::InvalidInput,
            Self::Network(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::BrowserConfig(error) => error.kind(),
            Self::Browser(error) => error.kind(),
            Self::Image(error) => image_kind(error),
            Self::PublicKey(_) => ErrorKind::InvalidInput,
            Self::Cache(_) | Self::KeyPair(_) => ErrorKind::Host,
            Self::Host { source, .. } => host_kind(source),
            Self::TimedOut { .. }
            | Self::StillRunning { .. }
            | Self::StartTimedOut { .. }
            | Self::NotInTime { .. } => ErrorKind::Timeout,
            Self::CommandOver | Self::NotInFork => ErrorKind::Conflict,
            Self::SandboxEnded { .. } | Self::TooMuchOutput { .. } => ErrorKind::GuestFailed,
        }
    }

    /// Returns the refusal of the guest behind this failure, if it is one.
    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Access(AccessError::Refused(refusal))
            | Self::Exec(ExecError::Access(AccessError::Refused(refusal)))
            | Self::Copy(CopyError::Guest(AccessError::Refused(refusal)))
            | Self::Env(EnvError::Access(AccessError::Refused(refusal))) => Some(refusal),
            _ => None,
        }
    }

    /// Returns the store's error behind this failure, if it is one.
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error)
            | Self::Create(CreateError::Store(error))
            | Self::Start(StartError::Store(error))
            | Self::Access(AccessError::Store(error))
            | Self::Exec(ExecError::Access(AccessError::Store(error)))
            | Self::Copy(CopyError::Guest(AccessError::Store(error)))
            | Self::Env(EnvError::Access(AccessError::Store(error)))
            | Self::Network(
                NetworkError::Store(error) | NetworkError::Access(AccessError::Store(error)),
            )
            | Self::Log(LogError::Store(error)) => Some(error),
            _ => None,
        }
    }

    /// Makes the Python exception.
    pub(crate) fn into_py_err(self, py: Python<'_>) -> PyErr {
        self.instance(py)
            .map_or_else(|error| error, PyErr::from_value)
    }

    fn instance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.store_error() {
            Some(StoreError::NotFound { id }) => {
                return class(py, &VM_NOT_FOUND, "VMNotFoundError")?.call1((id.as_str(),));
            }
            Some(StoreError::NameTaken { id }) => {
                return class(py, &VM_EXISTS, "VMAlreadyExistsError")?.call1((id.as_str(),));
            }
            _ => {}
        }
        match self {
            Self::TimedOut {
                operation,
                seconds,
                stdout,
                stderr,
            } => {
                let class = class(py, &TIMEOUT, "OperationTimeoutError")?;
                let error = class.call1((*operation, whole_if_it_is(py, *seconds)?))?;
                set_outputs(&error, stdout, stderr)?;
                Ok(error)
            }
            Self::StillRunning { seconds, is_full } => {
                let class = class(py, &TIMEOUT, "OperationTimeoutError")?;
                let error = class.call1(("wait", whole_if_it_is(py, *seconds)?))?;
                if *is_full {
                    let hint = "the command waits for its output to be read";
                    error.call_method1("add_hint", (hint,))?;
                }
                Ok(error)
            }
            Self::StartTimedOut { seconds, source } => {
                let class = class(py, &TIMEOUT, "OperationTimeoutError")?;
                let error = class.call1(("start", whole_if_it_is(py, *seconds)?))?;
                let details = error.getattr("details")?;
                details.set_item("console_tail", source.console_tail())?;
                Ok(error)
            }
            Self::NotInTime { operation, seconds } => {
                let class = class(py, &TIMEOUT, "OperationTimeoutError")?;
                class.call1((*operation, whole_if_it_is(py, *seconds)?))
            }
            Self::CommandOver => class(py, &COMMAND_OVER, "CommandOverError")?
                .call1((chain(self), self.details(py)?)),
            Self::SandboxEnded {
                reason,
                stdout,
                stderr,
            } => sandbox_ended(py, reason, stdout, stderr),
            Self::Create(CreateError::UnknownImage { image, known }) => {
                let message = format!(
                    "unknown image '{image}'; this version has {}",
                    known.join(", ")
                );
                class(py, &IMAGE, "ImageError")?.call1((message, self.details(py)?))
            }
            Self::Browser(error) => self.browser_instance(py, error),
            Self::Network(NetworkError::NoSuchRule { .. }) => {
                class(py, &VALIDATION, "ValidationError")?.call1((chain(self), self.details(py)?))
            }
            Self::Image(_) | Self::PublicKey(_) => {
                class(py, &IMAGE, "ImageError")?.call1((chain(self), self.details(py)?))
            }
            _ => self.by_kind(py),
        }
    }

    fn browser_instance<'py>(
        &self,
        py: Python<'py>,
        error: &BrowserError,
    ) -> PyResult<Bound<'py, PyAny>> {
        match error {
            BrowserError::NotFound { id } => {
                class(py, &BROWSER_NOT_FOUND, "BrowserSessionNotFoundError")?.call1((id.as_str(),))
            }
            BrowserError::AlreadyExists { id } => {
                class(py, &BROWSER_EXISTS, "BrowserSessionAlreadyExistsError")?
                    .call1((id.as_str(),))
            }
            BrowserError::ProfileInUse { vm_id, .. } => {
                let exception =
                    class(py, &VM_EXISTS, "VMAlreadyExistsError")?.call1((vm_id.as_str(),))?;
                exception.setattr("message", chain(self))?;
                Ok(exception)
            }
            BrowserError::Reserved => {
                class(py, &BASE, "SmolVMError")?.call1((chain(self), self.details(py)?))
            }
            _ => self.by_kind(py),
        }
    }

    fn by_kind<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(refusal) = self.refusal()
            && let Some(class) = refusal_class(py, refusal.code)?
        {
            return class.call1((chain(self), self.details(py)?));
        }
        let class = match self.kind() {
            ErrorKind::InvalidInput => class(py, &VALIDATION, "ValidationError")?,
            ErrorKind::NotFound => class(py, &FILE_NOT_FOUND, "GuestFileNotFoundError")?,
            ErrorKind::Unsupported | ErrorKind::Host => class(py, &HOST, "HostError")?,
            ErrorKind::Conflict
            | ErrorKind::Denied
            | ErrorKind::Timeout
            | ErrorKind::GuestFailed
            | ErrorKind::Bug => class(py, &BASE, "SmolVMError")?,
        };
        class.call1((chain(self), self.details(py)?))
    }

    fn details<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let details = PyDict::new(py);
        details.set_item("code", self.kind().code())?;
        if let Self::Argument { field, .. } = self {
            details.set_item("field", field)?;
        }
        if let Self::Start(error) = self {
            details.set_item("console_tail", error.console_tail())?;
        }
        if let Self::BrowserConfig(error) = self {
            details.set_item("field", error.field())?;
        }
        if let Self::Browser(error) = self {
            details.set_item("log", error.log())?;
        }
        Ok(details)
    }
}

fn host_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::InvalidInput
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory => ErrorKind::InvalidInput,
        _ => ErrorKind::Host,
    }
}

fn image_kind(error: &SshImageError) -> ErrorKind {
    match error {
        SshImageError::Name { .. }
        | SshImageError::Size { .. }
        | SshImageError::Package { .. }
        | SshImageError::Password(_) => ErrorKind::InvalidInput,
        _ => ErrorKind::Host,
    }
}

static BASE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static VALIDATION: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static HOST: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static IMAGE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static TIMEOUT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static COMMAND_OVER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static SANDBOX_ENDED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static VM_NOT_FOUND: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static VM_EXISTS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static BROWSER_NOT_FOUND: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static BROWSER_EXISTS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FILE_NOT_FOUND: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FILE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

fn class<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    cell.import(py, "smolvm.exceptions", name)
}

/// Returns the class for what a guest refuses, where it has one of its own.
fn refusal_class(py: Python<'_>, code: RefusalCode) -> PyResult<Option<&Bound<'_, PyType>>> {
    Ok(match code {
        RefusalCode::NotFound | RefusalCode::CommandNotFound => {
            Some(class(py, &FILE_NOT_FOUND, "GuestFileNotFoundError")?)
        }
        RefusalCode::NotADirectory
        | RefusalCode::IsADirectory
        | RefusalCode::AlreadyExists
        | RefusalCode::NotEmpty
        | RefusalCode::PermissionDenied
        | RefusalCode::NoSpace
        | RefusalCode::Io => Some(class(py, &FILE, "GuestFileError")?),
        RefusalCode::UnknownUser => Some(class(py, &VALIDATION, "ValidationError")?),
        RefusalCode::UnknownRequest
        | RefusalCode::Malformed
        | RefusalCode::Incompatible
        | RefusalCode::InvalidInput
        | RefusalCode::ArgumentsTooLong
        | RefusalCode::NotExecutable
        | RefusalCode::ShuttingDown
        | RefusalCode::ConnectionRefused
        | RefusalCode::PortTaken
        | RefusalCode::Host
        | RefusalCode::ResourcesExhausted => None,
    })
}

fn sandbox_ended<'py>(
    py: Python<'py>,
    reason: &EndReason,
    stdout: &[u8],
    stderr: &[u8],
) -> PyResult<Bound<'py, PyAny>> {
    let details = PyDict::new(py);
    let message = match reason {
        EndReason::Guest(_) | EndReason::SandboxStopped => {
            "the sandbox was stopped while the command ran".to_owned()
        }
        EndReason::GuestDied {
            message,
            console_tail,
        } => {
            details.set_item("console_tail", console_tail)?;
            format!("the guest died while the command ran: {message}")
        }
    };
    let class = class(py, &SANDBOX_ENDED, "SandboxEndedError")?;
    let error = class.call1((message, reason.as_str(), details))?;
    set_outputs(&error, stdout, stderr)?;
    Ok(error)
}

fn set_outputs(error: &Bound<'_, PyAny>, stdout: &[u8], stderr: &[u8]) -> PyResult<()> {
    error.setattr("stdout", text(error.py(), stdout)?)?;
    error.setattr("stderr", text(error.py(), stderr)?)
}

/// Decodes what a command wrote; what is not UTF-8 is replaced.
pub(crate) fn text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into_pyobject(py)?.into_any()),
        Err(_) => PyBytes::new(py, bytes).call_method1("decode", ("utf-8", "replace")),
    }
}

/// Returns a whole number as Python's `int`, as most callers gave it.
fn whole_if_it_is(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
    let number = seconds.into_pyobject(py)?.into_any();
    if number.call_method0("is_integer")?.is_truthy()? {
        number.call_method0("__int__")
    } else {
        Ok(number)
    }
}

/// Returns an error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// Returns the failure of a step on a file of the host.
pub(crate) fn host(action: &str, path: &std::path::Path, source: io::Error) -> Failure {
    let path: PathBuf = path.to_owned();
    Failure::Host {
        action: format!("{action} {}", path.display()),
        source,
    }
}
