//! `deps`: licences, duplicate and banned crates, sources and advisories of the dependencies.
//!
//! cargo-deny does the checking by `deny.toml`. Installing it from source was measured at 2 min
//! 40 s on two cores, which CI can afford once and a developer is asked about (`--install`).
//!
//! The advisory database is no registry: it is fetched from a place that a host may not reach.
//! Then the other checks still run, and the task says which one did not.

use std::error::Error;
use std::fmt;

use crate::command::{cargo, run as run_command, succeeds_quietly};
use crate::workspace::Workspace;
use crate::{Run, TaskResult};

/// Version that is installed; the configuration file belongs to it.
const VERSION: &str = "0.20.2";

const OFFLINE_CHECKS: &[&str] = &["bans", "licenses", "sources"];

/// cargo-deny is not installed, and nobody asked to install it.
#[derive(Debug)]
struct NotInstalled;

impl fmt::Display for NotInstalled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(
            "cargo-deny is not installed; `cargo xtask deps --install` builds it, which takes \
             some minutes",
        )
    }
}

impl Error for NotInstalled {}

/// Reads the arguments: cargo-deny may be installed or not.
pub(crate) fn parse(words: &[String]) -> Option<Run> {
    let may_install = match words {
        [] => false,
        [word] if word == "--install" => true,
        _ => return None,
    };
    Some(Box::new(move |workspace| run(workspace, may_install)))
}

fn run(workspace: &Workspace, may_install: bool) -> TaskResult {
    if !is_installed(workspace) {
        if !may_install {
            return Err(NotInstalled.into());
        }
        if let Err(error) = install(workspace) {
            eprintln!("NOT CHECKED: dependencies, because cargo-deny cannot be installed: {error}");
            return Ok(());
        }
    }
    run_command(cargo(workspace, &["deny", "--locked", "check"]).args(OFFLINE_CHECKS))?;
    check_advisories(workspace)
}

fn is_installed(workspace: &Workspace) -> bool {
    succeeds_quietly(&mut cargo(workspace, &["deny", "--version"]))
}

fn install(workspace: &Workspace) -> TaskResult {
    run_command(&mut cargo(
        workspace,
        &["install", "cargo-deny", "--locked", "--version", VERSION],
    ))?;
    Ok(())
}

fn check_advisories(workspace: &Workspace) -> TaskResult {
    // Fetched first and apart, so that a failure to fetch is not taken for an advisory.
    let can_fetch = succeeds_quietly(&mut cargo(workspace, &["deny", "fetch", "db"]));
    if !can_fetch {
        eprintln!("NOT CHECKED: advisories, because their database cannot be fetched from here");
        return Ok(());
    }
    run_command(&mut cargo(
        workspace,
        &["deny", "--locked", "check", "--disable-fetch", "advisories"],
    ))?;
    Ok(())
}
