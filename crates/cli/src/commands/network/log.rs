//! `network log`: what a sandbox has asked for and reached, and by which rules.

use serde_json::json;
use smolvm_sandbox::{NetworkRecord, SandboxId};

use super::event_line;
use crate::context::Context;
use crate::failure::Failure;
use crate::log_files::{Changes, LogFiles, read_error};
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
    let info = sandbox.info()?;
    // Watched before it is read: what comes in between is told of.
    let changes = match args.follow {
        true => Some(Changes::of(&info.directory).map_err(|error| read_error(&error))?),
        false => None,
    };
    let mut log = LogFiles::read(&info.network_logs()).map_err(|error| read_error(&error))?;
    let mut lines = Lines::default();
    let records = lines.push(&log.content);
    let skipped = args
        .tail
        .map_or(0, |tail| records.len().saturating_sub(tail));
    let records = &records[skipped..];
    let Some(mut changes) = changes else {
        let text: String = records.iter().map(event_line::of).collect();
        return Ok(Report::new(json!({"events": records}), text));
    };
    let is_json = context.settings.is_json;
    stream(records, is_json)?;
    log.follow(&sandbox, &mut changes, |piece| {
        stream(&lines.push(piece), is_json)
    })
    .await?;
    Ok(Report::default())
}

fn stream(records: &[NetworkRecord], is_json: bool) -> Result<(), Failure> {
    let lines = records.iter().map(|record| match is_json {
        true => json!(record).to_string() + "\n",
        false => event_line::of(record),
    });
    output::stream(lines.collect::<String>().as_bytes())
}

/// The records of a log that comes in pieces.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next piece, and returns the records that end in it. A line that is none, such as
    /// one that was being written when the host lost power, is passed over.
    fn push(&mut self, piece: &[u8]) -> Vec<NetworkRecord> {
        self.begun.extend_from_slice(piece);
        let Some(end) = self.begun.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.begun.split_off(end + 1);
        let lines = std::mem::replace(&mut self.begun, rest);
        lines
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_whole_however_the_log_is_cut() {
        let line = r#"{"sequence":4,"time_unix_ms":9,"event":{"type":"lost","events":2}}"#;
        let log = format!("{line}\nno record\n{line}\n");
        for cut in 0..log.len() {
            let mut lines = Lines::default();
            let (first, second) = log.as_bytes().split_at(cut);
            let records = [lines.push(first), lines.push(second)].concat();
            assert_eq!(records.len(), 2, "cut at {cut}");
            assert_eq!(records[0].sequence, 4);
        }
    }
}
