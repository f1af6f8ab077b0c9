//! `logs`: what a sandbox's console said.

use std::io::{self, IsTerminal as _};

use serde_json::json;
use smolvm_sandbox::{ErrorKind, SandboxId};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Report};
use crate::{text, values};

/// `logs` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Go on with what comes, until the sandbox has ended.
    #[arg(short, long)]
    follow: bool,

    /// Only the last lines.
    #[arg(short = 'n', long, value_name = "LINES", visible_alias = "lines")]
    tail: Option<usize>,

    /// What the sandbox's supervisor said, instead of its console.
    #[arg(long)]
    supervisor: bool,
}

/// Shows the log.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    if args.follow && context.settings.is_json {
        let message = "a log that is followed is no JSON document";
        return Err(Failure::new(ErrorKind::InvalidInput, message)
            .hint("leave out either --follow or --json"));
    }
    let sandbox = context.sandbox(&args.name)?;
    let info = sandbox.info()?;
    let logs = if args.supervisor {
        info.supervisor_logs()
    } else {
        info.console_logs()
    };
    let (content, mut log) = sandbox.read_log(&logs)?;
    let content = match args.tail {
        Some(lines) => last_lines(&content, lines),
        None => &content,
    };
    if !args.follow {
        let lines: Vec<String> = text::printable(content)
            .lines()
            .map(str::to_owned)
            .collect();
        return Ok(Report::new(json!({"lines": lines}), shown(content)));
    }
    output::stream(&shown(content))?;
    while let Some(piece) = log.next().await? {
        output::stream(&shown(&piece))?;
    }
    Ok(Report::default())
}

/// Returns what is written of `content`: on a terminal, nothing that could control it.
fn shown(content: &[u8]) -> Vec<u8> {
    if io::stdout().is_terminal() {
        text::printable(content).into_bytes()
    } else {
        content.to_owned()
    }
}

fn last_lines(content: &[u8], lines: usize) -> &[u8] {
    let end = content.strip_suffix(b"\n").unwrap_or(content);
    let breaks = end
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1) {
        None => &[],
        Some(before) => match breaks.map(|(at, _)| at).nth(before) {
            Some(at) => &content[at + 1..],
            None => content,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_count_an_unfinished_one() {
        let content = b"one\ntwo\nthree\n";
        assert_eq!(last_lines(content, 0), b"");
        assert_eq!(last_lines(content, 2), b"two\nthree\n");
        assert_eq!(last_lines(content, 9), content);
        assert_eq!(last_lines(b"one\ntw", 1), b"tw");
        assert_eq!(last_lines(b"", 1), b"");
    }
}
