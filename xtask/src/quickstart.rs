//! `quickstart`: from a fresh clone to the output of a command in a microVM.
//!
//! Each phase does nothing when its result is there, so that a second run shows how fast SmolVM
//! itself is, and an interrupted one goes on where it was.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::TaskResult;
use crate::command::run as run_command;
use crate::workspace::Workspace;
use crate::{build, packages};

/// A part of the way, whose time is shown.
struct Phase {
    name: &'static str,
    run: fn(&Workspace) -> TaskResult,
}

const PHASES: &[Phase] = &[
    Phase {
        name: "host packages",
        run: packages::run,
    },
    Phase {
        name: "build",
        run: build::run,
    },
    Phase {
        name: "kernel and image",
        run: |workspace| setup(workspace, &[]),
    },
    Phase {
        name: "first command",
        run: |workspace| {
            smolvm(
                workspace,
                &["run", "--timings", "-c", "uname -a && python3 --version"],
            )
        },
    },
];

/// What a person can try next, and what it does.
const NEXT_STEPS: &[(&str, &str)] = &[
    (
        "smolvm run -c 'echo hello'",
        "one command, then the sandbox is gone",
    ),
    (
        "smolvm run -- python3 -c 'print(6*7)'",
        "a program with its arguments",
    ),
    (
        "smolvm create --name box --start && smolvm shell box",
        "a sandbox that stays, and a shell in it",
    ),
    ("smolvm list --all", "the sandboxes there are"),
    ("smolvm doctor", "what this host can do, and what to fix"),
];

pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    let mut times = Vec::with_capacity(PHASES.len());
    for (index, phase) in PHASES.iter().enumerate() {
        eprintln!("\n[{}/{}] {}", index + 1, PHASES.len(), phase.name);
        let start = Instant::now();
        (phase.run)(workspace)?;
        times.push((phase.name, start.elapsed()));
    }
    eprint!("\n{}\n{}", time_table(&times), next_steps());
    Ok(())
}

/// Prepares the kernel and the default image.
pub(crate) fn setup(workspace: &Workspace, options: &[&str]) -> TaskResult {
    smolvm(workspace, &[&["setup"], options].concat())
}

/// Runs the `smolvm` that was just built, passing its output on.
pub(crate) fn smolvm(workspace: &Workspace, arguments: &[&str]) -> TaskResult {
    run_command(Command::new(workspace.release().join("smolvm")).args(arguments))?;
    Ok(())
}

fn time_table(times: &[(&str, Duration)]) -> String {
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    let rows = times.iter().copied().chain([("total", total)]);
    rows.map(|(name, time)| format!("{name:<18}{:>8.2} s\n", time.as_secs_f64()))
        .collect()
}

fn next_steps() -> String {
    let mut text = String::from("Next, with target/release in your PATH:\n");
    for (command, effect) in NEXT_STEPS {
        text += &format!("  {command:<53}{effect}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_table_ends_with_the_total() {
        let times = [
            ("build", Duration::from_millis(1_250)),
            ("run", Duration::from_millis(750)),
        ];
        assert_eq!(
            time_table(&times),
            "build                 1.25 s\n\
             run                   0.75 s\n\
             total                 2.00 s\n"
        );
    }
}
