//! `resume`: lets paused sandboxes go on.

use smolvm_sandbox::SandboxId;

use super::start::vms_json;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::values;

/// `resume` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of the sandboxes.
    #[arg(required = true, value_name = "NAME", value_parser = values::sandbox_id)]
    names: Vec<SandboxId>,
}

/// Resumes the sandboxes, one after the other.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let mut vms = Vec::new();
    let mut lines = String::new();
    for id in &args.names {
        let sandbox = context.sandbox(id)?;
        sandbox.resume().await?;
        let info = sandbox.info()?;
        lines.push_str(&format!("{id} is {}\n", info.state.as_str()));
        vms.push(context.vm_json(&info).await);
    }
    Ok(Report::new(vms_json(vms), lines))
}
