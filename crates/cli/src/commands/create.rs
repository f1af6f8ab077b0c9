//! `create`: a sandbox that stays until it is deleted.

use std::time::Duration;

use serde_json::json;
use smolvm_sandbox::{Lifetime, Sandbox};

use super::sandbox_args::SandboxArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::values;

/// `create` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Start it, too.
    #[arg(long)]
    start: bool,

    /// Start it, too, and give its guest so long to come up.
    #[arg(long, value_name = "TIME", value_parser = values::time_limit)]
    boot_timeout: Option<Duration>,

    #[command(flatten)]
    sandbox: SandboxArgs,
}

/// Creates the sandbox.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let secrets = args.sandbox.secrets()?;
    let spec = args.sandbox.spec(Lifetime::Persistent, &context.settings)?;
    let id = spec.id.clone();
    let activity = context.activity("creating sandbox");
    let installation = context.installation.clone();
    let progress = activity.progress();
    let sandbox = Sandbox::create_with_secrets(installation, spec, secrets, progress).await?;
    let is_started = args.start || args.boot_timeout.is_some();
    if is_started {
        let progress = activity.progress();
        sandbox.start_within(progress, args.boot_timeout).await?;
    }
    drop(activity);
    let vm = context.vm_json(&sandbox.info()?).await;
    let next = if is_started {
        // Under its older name, too; this one needs no SSH server in the guest.
        let shell = format!("smolvm shell {id}");
        json!({"shell_command": shell, "ssh_command": shell})
    } else {
        json!({"start_command": format!("smolvm start {id}")})
    };
    Ok(Report::new(
        json!({"vm": vm, "next": next}),
        format!("{id}\n"),
    ))
}
