//! Developer commands of the workspace: `cargo xtask <task>`. One file per task.
//!
//! ```text
//!   quickstart ── packages, build, then `smolvm setup` and `smolvm run`
//!   test ──────── packages, build, then the tests, then those of `py`, then `skips`
//!   test-slow ─── packages, build, then the tests of `py` that take minutes, then `skips`
//!   py ────────── build, then the wheel and its tests, then `skips`
//!   test-kernel ─ packages, build, `smolvm kernel build`, then scenarios with that kernel
//!   fuzz ──────── the seeds, then the targets of `fuzz` on a nightly compiler
//!   kvm ───────── packages, build, then a command where KVM works
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
mod fuzz;
mod kvm;
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

/// What is left of a task once its arguments are understood.
type Run = Box<dyn FnOnce(&Workspace) -> TaskResult>;

/// A developer command.
struct Task {
    name: &'static str,
    /// What may follow the name, for people.
    arguments: &'static str,
    summary: &'static str,
    /// Reads the words after the name; none if they are not understood.
    parse: fn(&[String]) -> Option<Run>,
}

/// Reads the arguments of a task that has none.
fn alone(words: &[String], run: fn(&Workspace) -> TaskResult) -> Option<Run> {
    words.is_empty().then(|| Box::new(run) as Run)
}

const TASKS: &[Task] = &[
    Task {
        name: "quickstart",
        arguments: "",
        summary: "from nothing to a command in a microVM; says how long each phase took",
        parse: |words| alone(words, quickstart::run),
    },
    Task {
        name: "packages",
        arguments: "",
        summary: "install the host packages that are missing",
        parse: |words| alone(words, packages::run),
    },
    Task {
        name: "build",
        arguments: "",
        summary: "build smolvm, smolvm-vmm and the static smolvm-agent in target/release",
        parse: |words| alone(words, build::run),
    },
    Task {
        name: "test",
        arguments: "",
        summary: "run all tests, also those that boot microVMs, and count the skipped ones",
        parse: |words| alone(words, test::run),
    },
    Task {
        name: "test-slow",
        arguments: "",
        summary: "run the tests that take minutes or all that this host has, which `test` leaves",
        parse: |words| alone(words, test::slow),
    },
    Task {
        name: "py",
        arguments: "",
        summary: "build the Python wheel, and check its types and test it where it is installed",
        parse: |words| alone(words, python::run),
    },
    Task {
        name: "fuzz",
        arguments: "[TARGET] [--seconds N]",
        summary: "feed what is hostile to its readers, each target for 60 s or N; needs nightly",
        parse: fuzz::parse,
    },
    Task {
        name: "kvm",
        arguments: "-- COMMAND",
        summary: "run a command where KVM works: here, or else in an emulated host that has it",
        parse: kvm::parse,
    },
    Task {
        name: "test-kvm",
        arguments: "",
        summary: "run the tests of the engine kvm, where KVM works",
        parse: |words| alone(words, test::on_kvm),
    },
    Task {
        name: "test-kernel",
        arguments: "",
        summary: "build the tuned kernel, where it is not, and run scenarios in guests that boot it",
        parse: |words| alone(words, test::tuned_kernel),
    },
    Task {
        name: "bench",
        arguments: "",
        summary: "measure what SPECIFICATION.md promises, beside a baseline",
        parse: |words| alone(words, bench::run),
    },
    Task {
        name: "bench-kvm",
        arguments: "",
        summary: "measure the engine kvm beside QEMU, where KVM works",
        parse: |words| alone(words, bench::on_kvm),
    },
    Task {
        name: "fmt",
        arguments: "",
        summary: "format the sources",
        parse: |words| alone(words, fmt::run),
    },
    Task {
        name: "lint",
        arguments: "",
        summary: "check format, clippy and documentation; warnings are errors",
        parse: |words| alone(words, lint::run),
    },
    Task {
        name: "deps",
        arguments: "[--install]",
        summary: "check licences, sources and advisories of the dependencies with cargo-deny",
        parse: deps::parse,
    },
    Task {
        name: "ci",
        arguments: "",
        summary: "run exactly what CI runs",
        parse: |words| alone(words, ci::run),
    },
];

/// Exit status of a command line that is not understood.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let Some((_, run)) = parse(&arguments) else {
        eprint!("{}", usage());
        return ExitCode::from(EXIT_USAGE);
    };
    match run(&Workspace::locate()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<(&'static Task, Run)> {
    let (name, words) = arguments.split_first()?;
    let task = TASKS.iter().find(|task| task.name == name)?;
    Some((task, (task.parse)(words)?))
}

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask <task>\n\n");
    for task in TASKS {
        let call = [task.name, task.arguments].join(" ");
        text += &format!("  {call:<29} {}\n", task.summary);
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

    fn parsed(line: &[&str]) -> Option<&'static str> {
        let arguments: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        parse(&arguments).map(|(task, _)| task.name)
    }

    #[test]
    fn task_is_found_by_its_name() {
        assert_eq!(parsed(&["lint"]), Some("lint"));
    }

    #[test]
    fn arguments_of_the_task_are_understood() {
        assert_eq!(parsed(&["deps", "--install"]), Some("deps"));
        assert_eq!(parsed(&["fuzz", "link", "--seconds", "5"]), Some("fuzz"));
    }

    #[test]
    fn arguments_of_another_task_are_refused() {
        assert_eq!(parsed(&["lint", "--install"]), None);
        assert_eq!(parsed(&["deps", "--seconds", "5"]), None);
    }

    #[test]
    fn no_task_and_unknown_tasks_are_refused() {
        assert_eq!(parsed(&[]), None);
        assert_eq!(parsed(&["lin"]), None);
    }
}
