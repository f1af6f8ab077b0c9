//! `cp`: files and directories into a sandbox or out of it.

use serde_json::json;
use smolvm_sandbox::ErrorKind;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::text;
use crate::values::Place;

/// `cp` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What is copied: a path, or NAME:PATH for one in a sandbox.
    #[arg(value_parser = clap::builder::OsStringValueParser::new())]
    source: std::ffi::OsString,

    /// Where to: a path, or NAME:PATH; a directory receives the source under its own name.
    #[arg(value_parser = clap::builder::OsStringValueParser::new())]
    destination: std::ffi::OsString,
}

/// Copies.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let (source, destination) = (Place::from(args.source), Place::from(args.destination));
    let activity = context.activity("copying");
    let copied = match (&source, &destination) {
        (Place::Host(source), Place::Sandbox { id, path }) => {
            context.sandbox(id)?.copy_in(source, path).await?
        }
        (Place::Sandbox { id, path }, Place::Host(destination)) => {
            context.sandbox(id)?.copy_out(path, destination).await?
        }
        (Place::Host(_), Place::Host(_)) => {
            return Err(unclear("neither side is in a sandbox"));
        }
        (Place::Sandbox { .. }, Place::Sandbox { .. }) => {
            return Err(unclear("both sides are in a sandbox"));
        }
    };
    drop(activity);
    Ok(Report::new(
        json!({"bytes": copied}),
        format!("copied {}\n", text::size(copied)),
    ))
}

fn unclear(message: &str) -> Failure {
    Failure::new(ErrorKind::InvalidInput, message)
        .hint("name one side in a sandbox: smolvm cp notes.txt NAME:/root/")
}
