//! How a task runs a program: announced, in the foreground, and failing when it fails.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::process::{Command, ExitStatus, Stdio};

use crate::workspace::Workspace;

/// Why a program did not do its work.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// It could not be started.
    Start {
        /// The command line.
        line: String,
        /// Why not.
        source: io::Error,
    },
    /// It ended with a failure.
    Failed {
        /// The command line.
        line: String,
        /// How it ended.
        status: ExitStatus,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { line, .. } => write!(formatter, "failed to start `{line}`"),
            Self::Failed { line, status } => write!(formatter, "`{line}` failed ({status})"),
        }
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Start { source, .. } => Some(source),
            Self::Failed { .. } => None,
        }
    }
}

/// Returns `cargo` with `arguments`, to be run in the root of the workspace.
pub(crate) fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new(workspace.cargo());
    command.args(arguments).current_dir(workspace.root());
    command
}

/// Shows the command line, then runs it with this program's input and output.
///
/// # Errors
///
/// When the program cannot be started or ends with a failure.
pub(crate) fn run(command: &mut Command) -> Result<(), CommandError> {
    eprintln!("$ {}", line(command));
    let status = command.status().map_err(|source| CommandError::Start {
        line: line(command),
        source,
    })?;
    check(command, status)
}

/// Tells whether the program succeeds; shows nothing of it.
pub(crate) fn succeeds_quietly(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Turns the status of a program that has ended into a result.
///
/// # Errors
///
/// When the status is not success.
pub(crate) fn check(command: &Command, status: ExitStatus) -> Result<(), CommandError> {
    if status.success() {
        Ok(())
    } else {
        Err(CommandError::Failed {
            line: line(command),
            status,
        })
    }
}

/// Returns the command line as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words: Vec<_> = std::iter::once(name)
        .chain(command.get_args())
        .map(quoted)
        .collect();
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.contains([' ', '\'', '"', '&', '$']) {
        format!("{word:?}")
    } else {
        word.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_shows_the_name_and_quotes_words_with_blanks() {
        let mut command = Command::new("/usr/bin/smolvm");
        command.args(["run", "-c", "uname -a"]);
        assert_eq!(line(&command), "smolvm run -c \"uname -a\"");
    }

    #[test]
    fn failing_program_is_an_error_that_names_it() {
        let error = run(&mut Command::new("false")).expect_err("`false` fails");
        assert_eq!(error.to_string(), "`false` failed (exit status: 1)");
    }

    #[test]
    fn missing_program_is_an_error_with_a_cause() {
        let error = run(&mut Command::new("/nonexistent/program")).expect_err("it is missing");
        assert!(matches!(error, CommandError::Start { .. }));
        assert!(error.source().is_some());
    }
}
