//! `fuzz`: the targets of `fuzz`, one after the other, each for a while, on a nightly compiler.
//!
//! libFuzzer begins with the seeds, which code makes, and with what earlier runs kept in
//! `fuzz/corpus`. What it finds is in `fuzz/artifacts/TARGET`; to be kept as a test, it goes to
//! `fuzz/regressions/TARGET`.

use std::error::Error;
use std::process::{Command, ExitStatus, Stdio};
use std::{fmt, fs, io};

use crate::command::{CommandError, cargo, line, run as run_command, succeeds_quietly};
use crate::workspace::Workspace;
use crate::{Run, TaskResult};

/// Seconds for each target when nobody says.
const DEFAULT_SECONDS: u32 = 60;

/// Seconds that one input may take. What it waits for takes no time, so it is work.
const INPUT_SECONDS: u32 = 10;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    /// One target; otherwise all of them.
    target: Option<String>,
    seconds: u32,
}

impl Request {
    fn parse(words: &[String]) -> Option<Self> {
        let (target, option) = match words {
            [target, option @ ..] if !target.starts_with('-') => (Some(target.clone()), option),
            option => (None, option),
        };
        let seconds = match option {
            [] => DEFAULT_SECONDS,
            [name, seconds] if name == "--seconds" => seconds.parse().ok().filter(|&n| n > 0)?,
            _ => return None,
        };
        Some(Self { target, seconds })
    }
}

/// Why fuzzing did not end well.
#[derive(Debug)]
enum FuzzError {
    NoNightly,
    NoCargoFuzz,
    UnknownTarget { target: String, known: Vec<String> },
    Found { targets: Vec<String> },
}

impl fmt::Display for FuzzError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNightly => formatter.write_str(
                "no nightly compiler, which libFuzzer's instrumentation needs: install it with \
                 `rustup toolchain install nightly`",
            ),
            Self::NoCargoFuzz => formatter.write_str(
                "cargo-fuzz is not installed: install it with `cargo install cargo-fuzz --locked`",
            ),
            Self::UnknownTarget { target, known } => write!(
                formatter,
                "there is no target {target:?}; there are {}",
                known.join(", ")
            ),
            Self::Found { targets } => write!(
                formatter,
                "inputs that break something are in fuzz/artifacts, of {}",
                targets.join(", ")
            ),
        }
    }
}

impl Error for FuzzError {}

/// Reads the arguments.
pub(crate) fn parse(words: &[String]) -> Option<Run> {
    let request = Request::parse(words)?;
    Some(Box::new(move |workspace| run(workspace, &request)))
}

fn run(workspace: &Workspace, request: &Request) -> TaskResult {
    let targets = chosen(targets(workspace)?, request.target.as_deref())?;
    check_tools(workspace)?;
    run_command(&mut seeds(workspace))?;
    run_command(&mut fuzz(workspace, &["build"]))?;
    let mut failed = Vec::new();
    for target in targets {
        let (report, status) = fuzz_target(workspace, &target, request.seconds)?;
        println!("{}", report.line(&target, status));
        if !status.success() {
            failed.push(target);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(FuzzError::Found { targets: failed }.into())
}

/// Returns the names of all targets, which are those of their files.
fn targets(workspace: &Workspace) -> io::Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(workspace.root().join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default();
        targets.push(name.to_string_lossy().into_owned());
    }
    targets.sort();
    Ok(targets)
}

fn chosen(known: Vec<String>, target: Option<&str>) -> Result<Vec<String>, FuzzError> {
    match target {
        None => Ok(known),
        Some(target) if known.iter().any(|name| name == target) => Ok(vec![target.to_owned()]),
        Some(target) => Err(FuzzError::UnknownTarget {
            target: target.to_owned(),
            known,
        }),
    }
}

fn check_tools(workspace: &Workspace) -> Result<(), FuzzError> {
    if !succeeds_quietly(&mut nightly(workspace, &["rustc", "--version"])) {
        return Err(FuzzError::NoNightly);
    }
    if !succeeds_quietly(&mut fuzz(workspace, &["--version"])) {
        return Err(FuzzError::NoCargoFuzz);
    }
    Ok(())
}

fn seeds(workspace: &Workspace) -> Command {
    let mut command = cargo(workspace, &["run", "--quiet", "--locked"]);
    command.args(["--package=smolvm-fuzz-bodies", "--", "fuzz/corpus"]);
    command
}

fn fuzz(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = nightly(workspace, &["cargo", "fuzz"]);
    command.args(arguments);
    command
}

/// Returns a program of the nightly toolchain. `cargo +nightly` is not there below another cargo.
fn nightly(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly"])
        .args(arguments)
        .current_dir(workspace.root());
    command
}

/// Fuzzes one target. What libFuzzer says is shown only if it finds something.
fn fuzz_target(
    workspace: &Workspace,
    target: &str,
    seconds: u32,
) -> Result<(Report, ExitStatus), CommandError> {
    let mut command = fuzz(workspace, &["run", target, "--"]);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg("-print_final_stats=1")
        .stdout(Stdio::null());
    eprintln!("$ {}", line(&command));
    let output = command.output().map_err(|source| CommandError::Start {
        line: line(&command),
        source,
    })?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{text}");
    }
    Ok((Report::read(&text), output.status))
}

/// What libFuzzer says in the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    executions: Option<u64>,
    executions_per_second: Option<u64>,
    /// Edges of the instrumented code that some input reached.
    coverage: Option<u64>,
    /// Inputs that each reach something of their own.
    corpus: Option<u64>,
}

impl Report {
    fn read(text: &str) -> Self {
        let last = |label| {
            let (_, rest) = text.rsplit_once(label)?;
            let digits = rest.trim_start().split(|end: char| !end.is_ascii_digit());
            digits.into_iter().next()?.parse().ok()
        };
        Self {
            executions: last("stat::number_of_executed_units:"),
            executions_per_second: last("stat::average_exec_per_sec:"),
            coverage: last(" cov: "),
            corpus: last(" corp: "),
        }
    }

    fn line(&self, target: &str, status: ExitStatus) -> String {
        let shown = |number: Option<u64>| number.map_or("?".to_owned(), |n| n.to_string());
        format!(
            "{target}: {} executions ({}/s), {} edges, {} inputs kept, {}",
            shown(self.executions),
            shown(self.executions_per_second),
            shown(self.coverage),
            shown(self.corpus),
            if status.success() {
                "nothing found"
            } else {
                "FOUND SOMETHING"
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &[&str]) -> Option<Request> {
        let words: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        Request::parse(&words)
    }

    #[test]
    fn target_and_seconds_are_understood() {
        let of = |target: Option<&str>, seconds| {
            let target = target.map(str::to_owned);
            Some(Request { target, seconds })
        };
        assert_eq!(request(&[]), of(None, 60));
        assert_eq!(request(&["http"]), of(Some("http"), 60));
        assert_eq!(request(&["--seconds", "5"]), of(None, 5));
        assert_eq!(request(&["http", "--seconds", "5"]), of(Some("http"), 5));
    }

    #[test]
    fn what_is_no_target_and_no_seconds_is_refused() {
        assert_eq!(request(&["http", "link"]), None);
        assert_eq!(request(&["--seconds"]), None);
        assert_eq!(request(&["--seconds", "0"]), None);
        assert_eq!(request(&["--minutes", "5"]), None);
    }

    #[test]
    fn target_that_is_not_there_names_those_that_are() {
        let known = vec!["http".to_owned(), "link".to_owned()];
        let error = chosen(known, Some("dns")).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "there is no target \"dns\"; there are http, link"
        );
    }

    #[test]
    fn report_is_what_libfuzzer_says_last() {
        let text = "#2\tINITED cov: 20 ft: 21 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #900\tDONE   cov: 345 ft: 900 corp: 67/8Kb lim: 4 exec/s: 300 rss: 31Mb\n\
                    stat::number_of_executed_units: 900\n\
                    stat::average_exec_per_sec:     300\n";
        let expected = Report {
            executions: Some(900),
            executions_per_second: Some(300),
            coverage: Some(345),
            corpus: Some(67),
        };
        assert_eq!(Report::read(text), expected);
    }
}
