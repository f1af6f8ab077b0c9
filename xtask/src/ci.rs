//! `ci`: exactly what CI runs, because both run the same script.

use std::process::Command;

use crate::TaskResult;
use crate::command::run as run_command;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    run_command(Command::new(workspace.root().join(".ci/run")).current_dir(workspace.root()))?;
    Ok(())
}
