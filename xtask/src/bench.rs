//! `bench`: measures what SPECIFICATION.md promises, beside a baseline in the same run: first the
//! library and the command, then the Python package.
//!
//! Fails when a promise is broken. It is not part of CI: a figure that a busy machine can change
//! must not decide whether a change is right.

use std::process::Command;

use crate::TaskResult;
use crate::command::{cargo, run as run_command};
use crate::packages::Purpose;
use crate::workspace::Workspace;
use crate::{build, packages, python, quickstart};

const PROGRAM: &[&str] = &[
    "build",
    "--release",
    "--locked",
    "--package=smolvm-bench",
    "--bin=smolvm-bench",
];

/// Linked statically, as its guest has no C library; see `build`.
const GUEST_PROGRAM: &[&str] = &[
    "rustc",
    "--release",
    "--locked",
    "--package=smolvm-bench",
    "--bin=smolvm-bench-guest",
    "--",
    "-C",
    "target-feature=+crt-static",
];

pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    packages::run_for(workspace, Purpose::Test)?;
    build::run(workspace)?;
    quickstart::setup(workspace, &[])?;
    run_command(&mut cargo(workspace, PROGRAM))?;
    run_command(&mut cargo(workspace, GUEST_PROGRAM))?;
    let measured = run_command(&mut Command::new(workspace.release().join("smolvm-bench")));
    // Also when a promise is broken: all figures are wanted.
    python::measured(workspace)?;
    Ok(measured?)
}
