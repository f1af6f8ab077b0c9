//! `stop`: shuts guests down; the disks are kept.

use std::time::Duration;

use smolvm_sandbox::{SandboxId, SandboxState};

use super::start::vms_json;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::values;

/// `stop` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of the sandboxes.
    #[arg(required_unless_present = "all", value_name = "NAME", value_parser = values::sandbox_id)]
    names: Vec<SandboxId>,

    /// All that run.
    #[arg(short, long, conflicts_with = "names")]
    all: bool,

    /// Time a guest has to shut down before it is killed; 0 kills at once.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    timeout: Duration,
}

/// Stops the sandboxes, one after the other.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let names = if args.all {
        let sandboxes = context.store()?.list()?.into_iter();
        sandboxes
            .filter(|sandbox| sandbox.state == SandboxState::Running)
            .map(|sandbox| sandbox.spec.id)
            .collect()
    } else {
        args.names
    };
    let mut vms = Vec::new();
    let mut lines = String::new();
    for id in &names {
        let sandbox = context.sandbox(id)?;
        let activity = context.activity(&format!("stopping {id}"));
        sandbox.stop(args.timeout).await?;
        drop(activity);
        let info = sandbox.info()?;
        lines.push_str(&format!("{id} is {}\n", info.state.as_str()));
        vms.push(context.vm_json(&info).await);
    }
    Ok(Report::new(vms_json(vms), lines))
}
