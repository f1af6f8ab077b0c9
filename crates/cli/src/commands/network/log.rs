//! `network log`: what a sandbox has asked for and reached, and by which rules.

use serde_json::json;
use smolvm_sandbox::{NetworkRecord, SandboxId};

use super::event_line;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Report};
use crate::values;

/// `network log` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Go on with what comes, until the sandbox has ended; with --json, an event a line.
    #[arg(short, long)]
    follow: bool,

    /// Only the last events.
    #[arg(short = 'n', long, value_name = "EVENTS")]
    tail: Option<usize>,
}

/// Shows the log.
pub(super) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let sandbox = context.sandbox(&args.name)?;
    let (records, mut log) = sandbox.network_log()?;
    let skipped = args
        .tail
        .map_or(0, |tail| records.len().saturating_sub(tail));
    let records = &records[skipped..];
    if !args.follow {
        let text: String = records.iter().map(event_line::of).collect();
        return Ok(Report::new(json!({"events": records}), text));
    }
    let is_json = context.settings.is_json;
    stream(records, is_json)?;
    while let Some(records) = log.next().await? {
        stream(&records, is_json)?;
    }
    Ok(Report::default())
}

fn stream(records: &[NetworkRecord], is_json: bool) -> Result<(), Failure> {
    let lines = records.iter().map(|record| match is_json {
        true => json!(record).to_string() + "\n",
        false => event_line::of(record),
    });
    output::stream(lines.collect::<String>().as_bytes())
}
