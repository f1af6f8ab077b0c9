//! `delete`: sandboxes with all their files.

use serde_json::json;
use smolvm_sandbox::SandboxId;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::values;

/// `delete` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of the sandboxes.
    #[arg(required_unless_present = "all", value_name = "NAME", value_parser = values::sandbox_id)]
    names: Vec<SandboxId>,

    /// All there are.
    #[arg(short, long, conflicts_with = "names")]
    all: bool,

    /// Do not mind names of sandboxes that do not exist.
    #[arg(short, long)]
    force: bool,
}

/// Deletes the sandboxes, one after the other.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let names = if args.all {
        let sandboxes = context.store()?.list()?.into_iter();
        sandboxes.map(|sandbox| sandbox.spec.id).collect()
    } else {
        args.names
    };
    let mut lines = String::new();
    for id in &names {
        if !args.force && !args.all {
            // Says so when it does not exist.
            context.sandbox(id)?;
        }
        context.remove(id).await?;
        lines.push_str(&format!("{id} deleted\n"));
    }
    Ok(Report::new(json!({"deleted": names}), lines))
}
