//! Developer commands of the workspace: `cargo xtask <task>`. One file per task.
//!
//! ```text
//!   quickstart ── packages, build, then `smolvm setup` and `smolvm run`
//!   test ──────── packages, build, then the tests, then those of `py`, then `skips`
//!   py ────────── build, then the wheel and its tests, then `skips`
//!   bench ─────── packages, build, then the figures of the library, then those of the wheel
//!   ci ────────── lint, deps, test, by way of `.ci/run`
//!   command       how a task runs a program                workspace   where things are
//! ```
//!
//! Tasks run in the foreground and share the terminal's process group with what they start: an
//! interrupt ends both, and every task picks up where it was when it is run again.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod ci;
mod command;
mod deps;
mod fmt;
mod lint;
mod packages;
mod python;
mod quickstart;
mod skips;
mod test;
mod workspace;

use std::error::Error;
use std::process::ExitCode;

use workspace::Workspace;

/// A task's end; the error is shown with its causes.
type TaskResult = Result<(), Box<dyn Error>>;

/// A developer command.
struct Task {
    name: &'static str,
    /// The only option the task knows, if it knows one.
    option: Option<&'static str>,
    summary: &'static str,
    run: fn(&Workspace, Invocation) -> TaskResult,
}

/// How a task was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Invocation {
    /// Whether the task's option was given.
    has_option: bool,
}

const TASKS: &[Task] = &[
    Task {
        name: "quickstart",
        option: None,
        summary: "from nothing to a command in a microVM; says how long each phase took",
        run: |workspace, _| quickstart::run(workspace),
    },
    Task {
        name: "packages",
        option: None,
        summary: "install the host packages that are missing",
        run: |workspace, _| packages::run(workspace),
    },
    Task {
        name: "build",
        option: None,
        summary: "build smolvm, smolvm-vmm and the static smolvm-agent in target/release",
        run: |workspace, _| build::run(workspace),
    },
    Task {
        name: "test",
        option: None,
        summary: "run all tests, also those that boot microVMs, and count the skipped ones",
        run: |workspace, _| test::run(workspace),
    },
    Task {
        name: "py",
        option: None,
        summary: "build the Python wheel, and check its types and test it where it is installed",
        run: |workspace, _| python::run(workspace),
    },
    Task {
        name: "bench",
        option: None,
        summary: "measure what SPECIFICATION.md promises, beside a baseline",
        run: |workspace, _| bench::run(workspace),
    },
    Task {
        name: "fmt",
        option: None,
        summary: "format the sources",
        run: |workspace, _| fmt::run(workspace),
    },
    Task {
        name: "lint",
        option: None,
        summary: "check format, clippy and documentation; warnings are errors",
        run: |workspace, _| lint::run(workspace),
    },
    Task {
        name: "deps",
        option: Some("--install"),
        summary: "check licences, sources and advisories of the dependencies with cargo-deny",
        run: |workspace, invocation| deps::run(workspace, invocation.has_option),
    },
    Task {
        name: "ci",
        option: None,
        summary: "run exactly what CI runs",
        run: |workspace, _| ci::run(workspace),
    },
];

/// Exit status of a command line that is not understood.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let Some((task, invocation)) = parse(&arguments) else {
        eprint!("{}", usage());
        return ExitCode::from(EXIT_USAGE);
    };
    match (task.run)(&Workspace::locate(), invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<(&'static Task, Invocation)> {
    let (name, options) = arguments.split_first()?;
    let task = TASKS.iter().find(|task| task.name == name)?;
    let has_option = match options {
        [] => false,
        [option] if task.option == Some(option.as_str()) => true,
        _ => return None,
    };
    Some((task, Invocation { has_option }))
}

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask <task>\n\n");
    for task in TASKS {
        let option = task
            .option
            .map(|option| format!("[{option}]"))
            .unwrap_or_default();
        let call = [task.name, &option].join(" ");
        text += &format!("  {call:<18} {}\n", task.summary);
    }
    text
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Option<(&'static str, bool)> {
        let arguments: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        parse(&arguments).map(|(task, invocation)| (task.name, invocation.has_option))
    }

    #[test]
    fn task_is_found_by_its_name() {
        assert_eq!(parsed(&["lint"]), Some(("lint", false)));
    }

    #[test]
    fn option_of_the_task_is_understood() {
        assert_eq!(parsed(&["deps", "--install"]), Some(("deps", true)));
    }

    #[test]
    fn option_of_another_task_is_refused() {
        assert_eq!(parsed(&["lint", "--install"]), None);
    }

    #[test]
    fn no_task_and_unknown_tasks_are_refused() {
        assert_eq!(parsed(&[]), None);
        assert_eq!(parsed(&["lin"]), None);
    }
}
