//! A command as Python asks for it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyMapping, PyString};
use serde_bytes::ByteBuf;
use smolvm_sandbox::message::{Command, Exec, Limits, TerminalSize};

use crate::arguments::milliseconds;
use crate::failure::Failure;

/// A command as Python asks for it; absent values are the guest's defaults.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct CommandArguments<'py> {
    command: Bound<'py, PyAny>,
    shell: String,
    timeout: Option<Bound<'py, PyAny>>,
    cwd: Option<PathBuf>,
    env: Option<Bound<'py, PyAny>>,
    user: Option<String>,
    stdin: bool,
    /// Rows and columns.
    terminal: Option<(u16, u16)>,
    memory: Option<u32>,
    cpus: Option<f64>,
    max_processes: Option<u32>,
}

impl CommandArguments<'_> {
    /// Returns the command's timeout.
    pub(crate) fn timeout(&self) -> PyResult<Option<Timeout>> {
        self.timeout.as_ref().map(Timeout::new).transpose()
    }

    /// Returns the request to run it.
    pub(crate) fn exec(&self, py: Python<'_>) -> PyResult<Exec> {
        let timeout_ms = self.timeout()?.map(|timeout| timeout.milliseconds);
        let command = self.command(py)?;
        let env = self.env.as_ref().map(|env| variables("env", env));
        let env = env.transpose()?.unwrap_or_default();
        let rest = || -> Result<Exec, Failure> {
            Ok(Exec {
                command,
                environment: environment(&env)?,
                working_directory: self.working_directory()?,
                user: self.user.clone(),
                stdin: self.stdin,
                terminal: self.terminal()?,
                timeout_ms,
                limits: self.limits()?,
            })
        };
        rest().map_err(|failure| failure.into_py_err(py))
    }

    fn command(&self, py: Python<'_>) -> PyResult<Command> {
        let illegal = |message: &str| Failure::argument("command", message).into_py_err(py);
        if self.command.is_instance_of::<PyString>() {
            let script: String = self.command.extract()?;
            if script.trim().is_empty() {
                return Err(illegal("it is empty"));
            }
            if script.contains('\0') {
                return Err(illegal("it contains a NUL character"));
            }
            let login = match self.shell.as_str() {
                "login" => true,
                "raw" => false,
                _ => {
                    let failure = Failure::argument("shell", "use 'login' or 'raw'");
                    return Err(failure.into_py_err(py));
                }
            };
            return Ok(Command::Shell {
                script: ByteBuf::from(script),
                login,
            });
        }
        if self.command.is_instance_of::<PyBytes>() {
            return Err(PyTypeError::new_err(
                "command must be a string or a sequence of strings, not bytes",
            ));
        }
        let arguments: Vec<PathBuf> = self.command.extract().map_err(|_| {
            PyTypeError::new_err("command must be a string or a sequence of strings")
        })?;
        let program = arguments.first().ok_or_else(|| illegal("it is empty"))?;
        if program.as_os_str().is_empty() {
            return Err(illegal("the program's name is empty"));
        }
        let arguments: Vec<ByteBuf> = arguments
            .iter()
            .map(|argument| ByteBuf::from(argument.as_os_str().as_bytes()))
            .collect();
        if arguments.iter().any(|argument| argument.contains(&0)) {
            return Err(illegal("it contains a NUL character"));
        }
        Ok(Command::Arguments(arguments))
    }

    fn working_directory(&self) -> Result<Option<ByteBuf>, Failure> {
        match &self.cwd {
            Some(path) if !path.is_absolute() => {
                let message = format!("{} is not an absolute path", path.display());
                Err(Failure::argument("cwd", message))
            }
            path => Ok(path
                .as_ref()
                .map(|path| ByteBuf::from(path.as_os_str().as_bytes()))),
        }
    }

    fn terminal(&self) -> Result<Option<TerminalSize>, Failure> {
        match self.terminal {
            Some((0, _) | (_, 0)) => Err(Failure::argument(
                "terminal",
                "it needs at least one row and one column",
            )),
            Some((rows, columns)) => Ok(Some(TerminalSize { rows, columns })),
            None => Ok(None),
        }
    }

    fn limits(&self) -> Result<Limits, Failure> {
        let positive = |field, number| match number {
            Some(0) => Err(Failure::argument(field, "it must be at least 1")),
            number => Ok(number),
        };
        let cpu_percent = self.cpus.map(|cpus| {
            // A duration of as many hundredths is a checked conversion.
            Duration::try_from_secs_f64((cpus * 100.0).round())
                .ok()
                .and_then(|percent| u32::try_from(percent.as_secs()).ok())
                .filter(|percent| *percent > 0)
                .ok_or_else(|| {
                    let message = format!("{cpus} is not a number of CPUs of at least 0.01");
                    Failure::argument("cpus", message)
                })
        });
        Ok(Limits {
            memory_mib: positive("memory", self.memory)?,
            cpu_percent: cpu_percent.transpose()?,
            processes: positive("max_processes", self.max_processes)?,
        })
    }
}

fn environment(variables: &BTreeMap<String, String>) -> Result<Vec<(ByteBuf, ByteBuf)>, Failure> {
    let checked = variables.iter().map(|(key, value)| {
        smolvm_sandbox::check_env_key(key)?;
        if value.contains('\0') {
            let message = format!("the value of {key} contains a NUL character");
            return Err(Failure::argument("env", message));
        }
        let (key, value) = (key.as_bytes(), value.as_bytes());
        Ok((ByteBuf::from(key), ByteBuf::from(value)))
    });
    checked.collect()
}

/// A command's timeout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout {
    pub(crate) seconds: f64,
    milliseconds: u64,
}

impl Timeout {
    /// Returns the error that there is none.
    pub(crate) fn missing() -> PyErr {
        no_number("timeout")
    }

    /// Takes Python's `int` or `float` of seconds.
    pub(crate) fn new(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let seconds = number("timeout", value)?;
        match milliseconds("timeout", Some(seconds)) {
            Ok(milliseconds) => Ok(Self {
                seconds,
                milliseconds: milliseconds.unwrap_or(u64::MAX),
            }),
            Err(failure) => Err(failure.into_py_err(value.py())),
        }
    }
}

/// How long a caller of Python waits at most: as it said, and as a duration.
pub(crate) type Patience = (f64, Duration);

/// Returns how long a caller waits at most; nothing is legal, too.
pub(crate) fn patience(field: &str, value: &Bound<'_, PyAny>) -> PyResult<Patience> {
    let seconds = number(field, value)?;
    if seconds == 0.0 {
        return Ok((seconds, Duration::ZERO));
    }
    match milliseconds(field, Some(seconds)) {
        Ok(milliseconds) => {
            let duration = Duration::from_millis(milliseconds.unwrap_or(u64::MAX));
            Ok((seconds, duration))
        }
        Err(failure) => Err(failure.into_py_err(value.py())),
    }
}

/// Takes Python's `int` or `float`; an integer too large for a float is the largest float.
fn number(field: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if value.is_instance_of::<PyBool>() {
        return Err(no_number(field));
    }
    match value.extract::<f64>() {
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
            Ok(if value.lt(0)? { -1.0 } else { f64::MAX })
        }
        seconds => seconds.map_err(|_| no_number(field)),
    }
}

fn no_number(field: &str) -> PyErr {
    PyTypeError::new_err(format!(
        "{field} must be a number of seconds: an int or a float"
    ))
}

/// Takes a mapping of names and texts; what is not one is refused by its name.
pub(crate) fn variables(
    field: &str,
    value: &Bound<'_, PyAny>,
) -> PyResult<BTreeMap<String, String>> {
    let py = value.py();
    let illegal = |message: String| Failure::argument(field, message).into_py_err(py);
    let given = value
        .cast::<PyMapping>()
        .map_err(|_| illegal("it is not a mapping of names to strings".to_owned()))?;
    let mut variables = BTreeMap::new();
    for item in given.items()? {
        let (key, value) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        let name: String = key
            .extract()
            .map_err(|_| illegal(format!("the name {key} is not a string")))?;
        let text = value.extract::<String>().map_err(|_| {
            let hint = if value.is_none() {
                "is None; is the variable set?"
            } else {
                "is not a string"
            };
            illegal(format!("the value of {name} {hint}"))
        })?;
        variables.insert(name, text);
    }
    Ok(variables)
}
