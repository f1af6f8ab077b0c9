//! What a command that failed says, and the exit code it ends with.

use std::error::Error;

use serde_json::{Map, Value, json};
use smolvm_sandbox::ErrorKind;

use crate::hints::Advice;
use crate::text;

/// Exit code of `run`, `exec` and `shell` when SmolVM failed, not the command (as docker-run(1)).
pub(crate) const OUR_FAILURE: u8 = 125;

/// Exit code when standard output was closed early: 128 + SIGPIPE.
pub(crate) const BROKEN_PIPE: u8 = 141;

/// Which exit codes a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// It passes on the exit code of a command in a guest, so its own must differ from most.
    Passing,
    /// It manages sandboxes.
    Managing,
}

/// Returns the exit code for a failure: the one table of them.
///
/// Besides these: 0 for success, 2 for a command line that cannot be understood, and what
/// [`smolvm_sandbox::EndReason::exit_code`] says of a command that ran.
pub(crate) const fn exit_code(kind: ErrorKind, family: Family) -> u8 {
    let (managing, passing) = match kind {
        ErrorKind::InvalidInput
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Unsupported
        | ErrorKind::Denied
        | ErrorKind::Timeout
        | ErrorKind::GuestFailed
        | ErrorKind::Host
        | ErrorKind::Bug => (1, OUR_FAILURE),
    };
    match family {
        Family::Managing => managing,
        Family::Passing => passing,
    }
}

/// A command that failed: what went wrong, and what may help.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    /// Stable name of what went wrong.
    pub(crate) code: &'static str,
    /// One line: the error and its causes.
    pub(crate) message: String,
    pub(crate) hints: Vec<String>,
    /// Last lines of the guest's console, where they say more.
    pub(crate) console_tail: Vec<String>,
    /// Whether a program or package of the host is missing.
    pub(crate) is_missing_dependency: bool,
    /// The exit code, where the table of kinds does not decide it.
    exit_code: Option<u8>,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: kind.code(),
            message: message.into(),
            hints: Vec::new(),
            console_tail: Vec::new(),
            is_missing_dependency: false,
            exit_code: None,
        }
    }

    /// Returns the failure that `error` is, with what can be advised on it.
    pub(crate) fn of(error: &dyn Error, kind: ErrorKind, advice: Advice) -> Self {
        let mut failure = Self::new(kind, text::chain(error));
        failure.code = advice.code.unwrap_or(kind.code());
        failure.hints = advice.hints;
        failure.is_missing_dependency = advice.is_missing_dependency;
        failure.exit_code = advice.exit_code;
        failure
    }

    /// Returns the failure of a command whose new sandbox somebody else has started by its name.
    pub(crate) fn started_by_another() -> Self {
        let message = "another process started the new sandbox first";
        Self::new(ErrorKind::Conflict, message)
    }

    /// Returns the failure of a command that a signal to us has ended.
    pub(crate) fn interrupted(signal: i32) -> Self {
        let mut failure = Self::new(ErrorKind::Conflict, format!("ended by signal {signal}"));
        failure.code = "interrupted";
        failure.exit_code = u8::try_from(128 + signal).ok();
        failure
    }

    /// Returns the failure that is told by its exit code alone: nobody listens any more.
    pub(crate) fn quiet(exit_code: u8) -> Self {
        let mut failure = Self::new(ErrorKind::Host, String::new());
        failure.exit_code = Some(exit_code);
        failure
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    pub(crate) fn console(mut self, lines: &[String]) -> Self {
        self.console_tail = lines.to_vec();
        self
    }

    pub(crate) fn exit_code(&self, family: Family) -> u8 {
        self.exit_code
            .unwrap_or_else(|| exit_code(self.kind, family))
    }

    /// Returns the `error` member of the JSON document: the keys of both generations.
    pub(crate) fn to_json(&self) -> Value {
        let mut details = Map::new();
        details.insert("kind".to_owned(), json!(self.kind.code()));
        if !self.console_tail.is_empty() {
            details.insert("console_tail".to_owned(), json!(self.console_tail));
        }
        json!({
            "code": self.code,
            "message": self.message,
            "type": self.generation_one_type(),
            "hints": self.hints,
            "details": details,
        })
    }

    /// Returns the error's type in the words of the first generation's command line.
    fn generation_one_type(&self) -> &'static str {
        match self.kind {
            _ if self.is_missing_dependency => "missing_dependency",
            ErrorKind::InvalidInput => "invalid_input",
            _ => "runtime_error",
        }
    }
}
