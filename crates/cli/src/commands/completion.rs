//! `completion`: the script that completes smolvm's commands in a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Arguments;
use crate::output::Report;

/// `completion` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

/// Returns the script.
pub(crate) fn run(args: Args) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "smolvm", &mut script);
    let data = json!({
        "shell": args.shell.to_string(),
        "script": String::from_utf8_lossy(&script),
    });
    Report::new(data, script)
}
