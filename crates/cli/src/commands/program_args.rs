//! Arguments that describe a command in a guest, and what is said of it when it has ended;
//! `run`, `exec` and `shell` share them.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use serde_bytes::ByteBuf;
use serde_json::{Map, Value, json};
use smolvm_sandbox::message::{Command, Exec, ExitReason, Limits};
use smolvm_sandbox::{End, EndReason, ErrorKind, SandboxId};

use crate::failure::Failure;
use crate::output::Report;
use crate::session::{Capture, Sink};
use crate::settings::{self, Settings};
use crate::values::{self, Variable};
use crate::{terminal, text};

/// A command in a guest as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct ProgramArgs {
    /// Set an environment variable; NAME alone passes this environment's value on.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = clap::builder::OsStringValueParser::new())]
    env: Vec<OsString>,

    /// Directory to run in; the user's home when not given.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,

    /// Who runs it: a name or number, with a group as in 1000:1000; root when not given.
    #[arg(short, long)]
    user: Option<String>,

    /// Kill it after this time: seconds, or as in 500ms, 10s, 2m. Exit code 124.
    #[arg(long, value_name = "TIME", value_parser = values::time_limit)]
    timeout: Option<Duration>,

    /// Memory that it and all it starts may use: MiB, or as in 1G. More ends it as out of memory.
    #[arg(long, value_name = "SIZE", value_parser = values::limit_memory)]
    limit_memory: Option<u32>,

    /// Processor time that it and all it starts may use: CPUs as in 0.5, or as in 50%.
    #[arg(long, value_name = "CPUS", value_parser = values::cpu_percent)]
    limit_cpu: Option<u32>,

    /// Processes and threads that it and all it starts may have.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit_processes: Option<u32>,

    /// Pass standard input on, also from a terminal.
    #[arg(short, long)]
    interactive: bool,

    /// Run it on a terminal of its own.
    #[arg(short, long)]
    tty: bool,

    /// A line for the guest's shell, instead of a program with its arguments.
    #[arg(short, long, value_name = "LINE", conflicts_with = "program")]
    command: Option<OsString>,

    /// The program and its arguments; a shell when not given with --tty.
    #[arg(
        value_name = "PROGRAM",
        trailing_var_arg = true,
        required_unless_present_any = ["command", "tty"],
    )]
    program: Vec<OsString>,
}

impl ProgramArgs {
    /// Returns the arguments of a login shell, on a terminal where there is one.
    pub(crate) fn login_shell(user: Option<String>) -> Self {
        Self {
            env: Vec::new(),
            workdir: None,
            user,
            timeout: None,
            limit_memory: None,
            limit_cpu: None,
            limit_processes: None,
            interactive: true,
            tty: std::io::stdin().is_terminal(),
            command: None,
            program: Vec::new(),
        }
    }

    /// Returns whether the command was asked to be connected to whoever typed it.
    pub(crate) const fn is_connected(&self) -> bool {
        self.interactive || self.tty
    }

    /// Returns what the guest is asked to run.
    pub(crate) fn exec(self, settings: &Settings) -> Result<Exec, Failure> {
        let stdin = self.interactive || !std::io::stdin().is_terminal();
        let command = match self.command {
            Some(line) => Command::Shell {
                script: bytes(line),
                login: false,
            },
            None if self.program.is_empty() => Command::LoginShell,
            None => Command::Arguments(self.program.into_iter().map(bytes).collect()),
        };
        let terminal_type = settings.terminal_type.clone().filter(|_| self.tty);
        let mut environment: Vec<(ByteBuf, ByteBuf)> = terminal_type
            .map(|terminal_type| (ByteBuf::from("TERM"), bytes(terminal_type)))
            .into_iter()
            .collect();
        for variable in self.env {
            environment.extend(resolve(variable.into())?);
        }
        let timeout_ms = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        Ok(Exec {
            command,
            environment,
            working_directory: self.workdir.map(bytes),
            user: self.user,
            stdin,
            terminal: self.tty.then(terminal::size),
            timeout_ms: self.timeout.map(timeout_ms),
            limits: Limits {
                memory_mib: self.limit_memory,
                cpu_percent: self.limit_cpu,
                processes: self.limit_processes,
            },
        })
    }
}

fn bytes(text: OsString) -> ByteBuf {
    ByteBuf::from(text.into_vec())
}

/// Returns a variable with its value; none when it is to be passed on and is not set.
fn resolve(variable: Variable) -> Result<Option<(ByteBuf, ByteBuf)>, Failure> {
    if variable.name.is_empty() {
        let message = "an environment variable needs a name, as in -e NAME=VALUE";
        return Err(Failure::new(ErrorKind::InvalidInput, message));
    }
    let value = match variable.value {
        Some(value) => Some(value),
        None => settings::passed_on(&variable.name),
    };
    Ok(value.map(|value| (bytes(variable.name), bytes(value))))
}

/// Returns what there is to say of a command that has ended.
pub(crate) fn report(id: &SandboxId, end: &End, sink: Sink) -> Report {
    let mut data = Map::new();
    data.insert("sandbox".to_owned(), json!(id));
    data.insert("exit_code".to_owned(), json!(end.reason.exit_code()));
    data.insert("reason".to_owned(), json!(end.reason.as_str()));
    if let EndReason::Guest(ExitReason::Signalled { number }) = end.reason {
        data.insert("signal".to_owned(), json!(number));
    }
    data.insert("duration_ms".to_owned(), milliseconds(end.elapsed));
    if let Sink::Captured { stdout, stderr } = sink {
        insert_capture(&mut data, "stdout", stdout);
        insert_capture(&mut data, "stderr", stderr);
    }
    Report {
        data: Value::Object(data),
        text: Vec::new(),
        exit_code: u8::try_from(end.reason.exit_code()).unwrap_or(u8::MAX),
        failure: failure_of(end),
    }
}

/// Returns a duration as documents have it.
pub(crate) fn milliseconds(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn insert_capture(data: &mut Map<String, Value>, name: &str, capture: Capture) {
    let (text, is_lossy) = match String::from_utf8(capture.bytes) {
        Ok(text) => (text, false),
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), true),
    };
    data.insert(name.to_owned(), json!(text));
    data.insert(format!("{name}_truncated"), json!(capture.is_truncated));
    data.insert(format!("{name}_lossy"), json!(is_lossy));
}

/// Returns why a command did not end by itself, where its exit code does not say it plainly.
fn failure_of(end: &End) -> Option<Failure> {
    let failure = match &end.reason {
        EndReason::Guest(ExitReason::Exited { .. } | ExitReason::Signalled { .. }) => return None,
        EndReason::Guest(ExitReason::TimedOut) => Failure::new(
            ErrorKind::Timeout,
            format!(
                "the command was killed when its time was up, after {}",
                text::duration(end.elapsed)
            ),
        )
        .code("timed_out"),
        EndReason::Guest(ExitReason::OutOfMemory) => Failure::new(
            ErrorKind::GuestFailed,
            "the command was killed because the guest ran out of memory",
        )
        .code("out_of_memory")
        .hint("give the sandbox more memory: --memory 2G"),
        EndReason::Guest(ExitReason::Killed) => {
            Failure::new(ErrorKind::Conflict, "the command was killed").code("killed")
        }
        EndReason::SandboxStopped => Failure::new(
            ErrorKind::Conflict,
            "the sandbox was stopped while the command ran",
        )
        .code("sandbox_stopped"),
        EndReason::GuestDied {
            message,
            console_tail,
        } => Failure::new(
            ErrorKind::GuestFailed,
            format!("the guest died while the command ran: {message}"),
        )
        .code("guest_died")
        .console(console_tail),
    };
    Some(failure)
}
