//! `start`: boots sandboxes that were created or stopped.

use serde_json::{Value, json};
use smolvm_sandbox::{SandboxId, Started};

use super::program_args::milliseconds;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::{text, values};

/// `start` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of the sandboxes.
    #[arg(required = true, value_name = "NAME", value_parser = values::sandbox_id)]
    names: Vec<SandboxId>,
}

/// Starts the sandboxes, one after the other.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let mut vms = Vec::new();
    let mut lines = String::new();
    for id in &args.names {
        let (vm, line) = start(id, context).await?;
        vms.push(vm);
        lines.push_str(&line);
    }
    Ok(Report::new(vms_json(vms), lines))
}

/// Returns the data of a command on one or more sandboxes: `vm` when it is one, `vms` always.
pub(crate) fn vms_json(vms: Vec<Value>) -> Value {
    match vms.as_slice() {
        [vm] => json!({"vm": vm, "vms": vms}),
        _ => json!({"vms": vms}),
    }
}

async fn start(id: &SandboxId, context: &Context) -> Result<(Value, String), Failure> {
    let sandbox = context.sandbox(id)?;
    let activity = context.activity(&format!("starting {id}"));
    let started = sandbox.start(activity.progress()).await?;
    drop(activity);
    let mut vm = context.vm_json(&sandbox.info()?).await;
    let report = match started {
        Started::Booted(report) => report,
        Started::Resumed => return Ok((vm, format!("{id} goes on\n"))),
        Started::AlreadyRunning => return Ok((vm, format!("{id} runs already\n"))),
    };
    vm["timings"] = json!({
        "preparation_ms": milliseconds(report.preparation),
        "boot_ms": milliseconds(report.boot),
    });
    let took = text::duration(report.preparation + report.boot);
    Ok((vm, format!("{id} started in {took}, {}\n", report.engine)))
}
