//! `create`: a sandbox that stays until it is deleted.

use serde_json::json;
use smolvm_sandbox::{Lifetime, Sandbox};

use super::sandbox_args::SandboxArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;

/// `create` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Start it, too.
    #[arg(long)]
    start: bool,

    #[command(flatten)]
    sandbox: SandboxArgs,
}

/// Creates the sandbox.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let spec = args.sandbox.spec(Lifetime::Persistent, &context.settings)?;
    let id = spec.id.clone();
    let activity = context.activity("creating sandbox");
    let installation = context.installation.clone();
    let sandbox = Sandbox::create(installation, spec, activity.progress()).await?;
    if args.start {
        sandbox.start(activity.progress()).await?;
    }
    drop(activity);
    let vm = context.vm_json(&sandbox.info()?).await;
    let next = if args.start {
        json!({"shell_command": format!("smolvm shell {id}")})
    } else {
        json!({"start_command": format!("smolvm start {id}")})
    };
    Ok(Report::new(
        json!({"vm": vm, "next": next}),
        format!("{id}\n"),
    ))
}
