//! `bench`: measures what SPECIFICATION.md promises, beside a baseline in the same run: first the
//! library and the command, then the Python package. `bench-kvm` measures the engine `kvm`.
//!
//! Fails when a promise is broken. It is not part of CI: a figure that a busy machine can change
//! must not decide whether a change is right.

use std::process::Command;

use crate::TaskResult;
use crate::command::{cargo, run as run_command};
use crate::packages::Purpose;
use crate::workspace::Workspace;
use crate::{build, kvm, packages, python, quickstart};

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

/// Measures the engine `kvm` beside QEMU where KVM works, if need be in an emulated host.
pub(crate) fn on_kvm(workspace: &Workspace) -> TaskResult {
    packages::run_for(workspace, Purpose::TestOnKvm)?;
    build::run(workspace)?;
    quickstart::setup(workspace, &[])?;
    run_command(&mut cargo(workspace, PROGRAM))?;
    run_command(&mut cargo(workspace, GUEST_PROGRAM))?;
    let programs = ["smolvm-bench", "smolvm-bench-guest"];
    let programs = programs.map(|name| workspace.release().join(name));
    let command = ["smolvm-bench", "engines"].map(str::to_owned);
    kvm::run(workspace, &command, &programs)
}

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
