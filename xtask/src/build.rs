//! `build`: the programs of a SmolVM installation, next to each other in `target/release`.
//!
//! The agent is linked statically: it is PID 1 of guests whose root image may have no C library,
//! or another one. The option must reach only the agent's own program, hence `cargo rustc`.

use crate::TaskResult;
use crate::command::{cargo, run as run_command};
use crate::workspace::Workspace;

const HOST_PROGRAMS: &[&str] = &[
    "build",
    "--release",
    "--locked",
    "--bins",
    "--package=smolvm-cli",
    "--package=smolvm-vmm",
];

const AGENT: &[&str] = &[
    "rustc",
    "--release",
    "--locked",
    "--package=smolvm-agent",
    "--bin=smolvm-agent",
    "--",
    "-C",
    "target-feature=+crt-static",
];

pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    run_command(&mut cargo(workspace, HOST_PROGRAMS))?;
    run_command(&mut cargo(workspace, AGENT))?;
    Ok(())
}
