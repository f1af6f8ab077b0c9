//! `fmt`: formats the sources of the whole workspace.

use crate::TaskResult;
use crate::command::{cargo, run as run_command};
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    run_command(&mut cargo(workspace, &["fmt", "--all"]))?;
    Ok(())
}
