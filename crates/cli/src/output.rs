//! The only place that writes to this program's outputs.
//!
//! Standard output carries what was asked for: text for people, the bytes of a command in a
//! guest, or exactly one JSON document. Everything else goes to standard error.

#![expect(
    clippy::print_stderr,
    reason = "this module is the one place that prints"
)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};
use smolvm_sandbox::ErrorKind;

use crate::failure::{BROKEN_PIPE, Failure, Family};
use crate::text;

/// What a command that did its work has to say.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For programs: the `data` member of the document.
    pub(crate) data: Value,
    /// For people: what standard output gets, with its line breaks.
    pub(crate) text: Vec<u8>,
    /// The exit code.
    pub(crate) exit_code: u8,
    /// Why the exit code is not zero, where the data does not say it all.
    pub(crate) failure: Option<Failure>,
}

impl Report {
    pub(crate) fn new(data: Value, text: impl Into<Vec<u8>>) -> Self {
        Self {
            data,
            text: text.into(),
            exit_code: 0,
            failure: None,
        }
    }
}

/// Writes one line to standard error.
pub(crate) fn error_line(line: &str) {
    eprintln!("{line}");
}

/// A colour of the terminal, by what it stands for (ECMA-48 §8.3.117, SGR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

/// Colours `text` where colours are shown.
pub(crate) fn paint(is_shown: bool, colour: Colour, text: &str) -> String {
    if !is_shown {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Dim => "2",
        Colour::Red => "1;31",
        Colour::Green => "32",
        Colour::Yellow => "33",
        Colour::Cyan => "36",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Writes what a command has to say, and returns the exit code.
pub(crate) fn conclude(
    command: &str,
    family: Family,
    is_json: bool,
    has_colour: bool,
    outcome: Result<Report, Failure>,
) -> ExitCode {
    let (report, failure) = match outcome {
        Ok(report) => (Some(report), None),
        Err(failure) => (None, Some(failure)),
    };
    let exit_code = match (&report, &failure) {
        (Some(report), _) => report.exit_code,
        (None, Some(failure)) => failure.exit_code(family),
        (None, None) => 0,
    };
    let (data, text, failure) = match report {
        Some(report) => (report.data, report.text, report.failure),
        None => (Value::Null, Vec::new(), failure),
    };
    let stdout = if is_json {
        document(command, exit_code, &data, failure.as_ref())
    } else {
        if let Some(failure) = failure
            .as_ref()
            .filter(|failure| !failure.message.is_empty())
        {
            show_failure(failure, has_colour);
        }
        text
    };
    match write_all(&stdout) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(BROKEN_PIPE),
        Err(error) => {
            error_line(&format!("error: write to standard output: {error}"));
            ExitCode::from(exit_code.max(1))
        }
        Ok(()) => ExitCode::from(exit_code),
    }
}

/// Writes a piece of what comes over time to standard output.
pub(crate) fn stream(bytes: &[u8]) -> Result<(), Failure> {
    write_all(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::quiet(BROKEN_PIPE),
        _ => Failure::new(
            ErrorKind::Host,
            format!("write to standard output: {error}"),
        ),
    })
}

fn document(command: &str, exit_code: u8, data: &Value, failure: Option<&Failure>) -> Vec<u8> {
    let document = json!({
        "ok": exit_code == 0,
        "command": command,
        "exit_code": exit_code,
        "data": data,
        "error": failure.map(Failure::to_json),
    });
    format!("{document:#}\n").into_bytes()
}

fn show_failure(failure: &Failure, has_colour: bool) {
    if !failure.console_tail.is_empty() {
        error_line(&paint(
            has_colour,
            Colour::Dim,
            "last lines of the guest's console:",
        ));
        for line in &failure.console_tail {
            let line = text::printable(line.as_bytes());
            error_line(&paint(has_colour, Colour::Dim, &format!("  {line}")));
        }
    }
    let label = paint(has_colour, Colour::Red, "error:");
    // A guest's words may be part of it.
    let message = text::printable(failure.message.as_bytes());
    error_line(&format!("{label} {message}"));
    for hint in &failure.hints {
        let label = paint(has_colour, Colour::Cyan, "hint:");
        error_line(&format!("{label} {hint}"));
    }
}

fn write_all(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
