//! `test`: all tests of the workspace, also those that boot microVMs, with what they need.
//!
//! cargo-nextest runs them when it is installed, because it runs tests of different crates side
//! by side; `cargo test` runs the same ones otherwise, and the examples in the documentation
//! always, which nextest does not know.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::TaskResult;
use crate::command::{CommandError, cargo, check, line, run as run_command, succeeds_quietly};
use crate::packages::Purpose;
use crate::skips::{self, Skip};
use crate::workspace::Workspace;
use crate::{build, kvm, packages, python, quickstart};

pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    packages::run_for(workspace, Purpose::Test)?;
    build::run(workspace)?;
    quickstart::setup(workspace, &["--browser"])?;
    let has_nextest = succeeds_quietly(&mut cargo(workspace, &["nextest", "--version"]));
    let mut skips = if has_nextest {
        with_nextest(workspace)?
    } else {
        with_cargo(workspace)?
    };
    skips.extend(python::tested(workspace)?);
    skips::report(&skips)?;
    // Last: it is slow where this host's KVM is not usable.
    packages::run_for(workspace, Purpose::TestOnKvm)?;
    scenarios_on_kvm(workspace)
}

/// Runs the tests that take minutes or all that this host has.
pub(crate) fn slow(workspace: &Workspace) -> TaskResult {
    packages::run_for(workspace, Purpose::Test)?;
    build::run(workspace)?;
    quickstart::setup(workspace, &["--browser"])?;
    skips::report(&python::tested_slowly(workspace)?)?;
    Ok(())
}

/// Scenarios that run over the engine `kvm`, beside those that only it has; together they boot it
/// some twenty times, which takes minutes in an emulated host.
const SCENARIOS_ON_KVM: &[&str] = &[
    "kvm",
    "lifecycle::",
    "death::killed_vmm",
    "death::killed_supervisor",
    "death::kernel_panic",
    "custom_boot::kernel_that_is_none",
    "files::",
];

/// Runs the tests of the engine `kvm` where KVM works.
pub(crate) fn on_kvm(workspace: &Workspace) -> TaskResult {
    packages::run_for(workspace, Purpose::TestOnKvm)?;
    build::run(workspace)?;
    quickstart::setup(workspace, &[])?;
    scenarios_on_kvm(workspace)
}

fn scenarios_on_kvm(workspace: &Workspace) -> TaskResult {
    let machine = test_program(workspace, "smolvm-vmm", "machine")?;
    let scenarios = test_program(workspace, "smolvm-tests", "scenarios")?;
    let name = |program: &Path| {
        let name = program.file_name().ok_or("a program has a name")?;
        Ok::<_, &str>(name.to_string_lossy().into_owned())
    };
    // One after the other: the emulated host has one processor.
    let options = "--include-ignored --test-threads=1";
    let script = format!(
        "{} {options} && {} {options} {}",
        name(&machine)?,
        name(&scenarios)?,
        SCENARIOS_ON_KVM.join(" ")
    );
    let command = ["env", "SMOLVM_BACKEND=kvm", "bash", "-c", &script].map(str::to_owned);
    kvm::run(workspace, &command, &[machine, scenarios])
}

/// Scenarios that run with the tuned kernel, beside those that are about it: what depends most on
/// what a kernel has.
const SCENARIOS_ON_TUNED_KERNEL: &[&str] = &[
    "tuned_kernel::",
    "lifecycle::",
    "limits::",
    "files::",
    "network::",
    "death::kernel_panic",
];

/// Builds the tuned kernel and runs scenarios in guests that boot it.
///
/// The first of them fails where the user has chosen that guests boot another.
pub(crate) fn tuned_kernel(workspace: &Workspace) -> TaskResult {
    packages::run_for(workspace, Purpose::TestKernel)?;
    build::run(workspace)?;
    quickstart::setup(workspace, &[])?;
    quickstart::smolvm(workspace, &["kernel", "build"])?;
    let mut command = cargo(workspace, &["test", "--locked"]);
    command.args(["--package", "smolvm-tests", "--test", "scenarios", "--"]);
    // Those about the tuned kernel are ignored where it is not known to be built; those about the
    // engine kvm want a KVM.
    command.args(["--include-ignored", "--skip", "kvm"]);
    run_command(command.args(SCENARIOS_ON_TUNED_KERNEL))?;
    Ok(())
}

/// Builds a program of a package's tests and returns it.
fn test_program(
    workspace: &Workspace,
    package: &str,
    name: &str,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut build = cargo(workspace, &["test", "--no-run", "--locked"]);
    build.args(["--package", package, "--test", name]);
    build.args(["--message-format", "json"]);
    build.stderr(Stdio::inherit());
    let output = build.output()?;
    check(&build, output.status)?;
    // Of each program that was built, cargo tells the path, in a document of one line.
    let output = String::from_utf8(output.stdout)?;
    let mut paths = output.lines().filter_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        rest.split_once('"').map(|(path, _)| PathBuf::from(path))
    });
    // A package's own programs are built with its tests.
    let is_it = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with(&format!("{name}-"))
    };
    paths
        .find(is_it)
        .ok_or_else(|| format!("cargo built no test {name}").into())
}

fn with_nextest(workspace: &Workspace) -> Result<Vec<Skip>, Box<dyn std::error::Error>> {
    let report = workspace.target().join("nextest/default/junit.xml");
    // The report of an earlier run must not be taken for this one's.
    match fs::remove_file(&report) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let configuration = format!(
        "xtask:{}",
        workspace.root().join("xtask/nextest.toml").display()
    );
    run_command(
        cargo(
            workspace,
            &[
                "nextest",
                "run",
                "--workspace",
                "--locked",
                "--no-fail-fast",
            ],
        )
        .args(["--tool-config-file", &configuration]),
    )?;
    run_command(&mut cargo(
        workspace,
        &["test", "--workspace", "--locked", "--doc"],
    ))?;
    Ok(skips::find_in_junit(&fs::read_to_string(&report)?))
}

fn with_cargo(workspace: &Workspace) -> Result<Vec<Skip>, Box<dyn std::error::Error>> {
    let mut command = cargo(
        workspace,
        &["test", "--workspace", "--locked", "--no-fail-fast"],
    );
    // Shows what passing tests wrote, on standard output.
    command.args(["--", "--show-output"]);
    Ok(skips_of(&mut command, &mut io::stdout())?)
}

/// Runs a test command, passing its output on to `screen` and collecting the skips that it
/// announces.
pub(crate) fn skips_of(
    command: &mut Command,
    screen: &mut dyn Write,
) -> Result<Vec<Skip>, CommandError> {
    let shown = line(command);
    eprintln!("$ {shown}");
    let failed_to_run = |source| CommandError::Start {
        line: shown.clone(),
        source,
    };
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed_to_run)?;
    let mut skips = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for text in BufReader::new(stdout).split(b'\n') {
            let text = text.map_err(failed_to_run)?;
            let text = String::from_utf8_lossy(&text);
            // A reader that has gone away must not end the tests.
            let _ = writeln!(screen, "{text}");
            skips.extend(skips::find(&text));
        }
    }
    check(command, child.wait().map_err(failed_to_run)?)?;
    Ok(skips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_skips_are_collected_from_the_output() {
        let mut command = Command::new("printf");
        command.arg("ok\nSKIPPED a: no kvm\n");
        // Not on this test's own output, where it would be taken for a skip of this test.
        let mut screen = Vec::new();
        let skips = skips_of(&mut command, &mut screen).expect("printf succeeds");
        assert_eq!(
            skips,
            vec![skips::find("SKIPPED a: no kvm").expect("an announcement")]
        );
        assert_eq!(screen, b"ok\nSKIPPED a: no kvm\n");
    }

    #[test]
    fn failing_tests_are_an_error() {
        assert!(skips_of(&mut Command::new("false"), &mut Vec::new()).is_err());
    }
}
