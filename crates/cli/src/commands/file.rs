//! `file`: one file into a sandbox or out of it, by exact names. `cp` does directories, too.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::json;
use smolvm_sandbox::SandboxId;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::{text, values};

/// `file` as typed.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Copy a file into a sandbox.
    #[command(visible_alias = "push")]
    Upload(UploadArgs),
    /// Copy a file out of a sandbox.
    #[command(visible_alias = "pull")]
    Download(DownloadArgs),
}

/// `file upload` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct UploadArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// The file on this host.
    local: PathBuf,

    /// Absolute path in the guest.
    guest: OsString,
}

/// `file download` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct DownloadArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Absolute path in the guest.
    guest: OsString,

    /// The file on this host.
    local: PathBuf,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Upload(_) => "file.upload",
            Self::Download(_) => "file.download",
        }
    }
}

/// Uploads or downloads.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Report, Failure> {
    let (name, local, guest, verb, copied) = match command {
        Command::Upload(args) => {
            let sandbox = context.sandbox(&args.name)?;
            let activity = context.activity("uploading");
            let copied = sandbox
                .copy_in(&args.local, guest_path(&args.guest))
                .await?;
            drop(activity);
            (args.name, args.local, args.guest, "uploaded", copied)
        }
        Command::Download(args) => {
            let sandbox = context.sandbox(&args.name)?;
            let activity = context.activity("downloading");
            let copied = sandbox
                .copy_out(guest_path(&args.guest), &args.local)
                .await?;
            drop(activity);
            (args.name, args.local, args.guest, "downloaded", copied)
        }
    };
    let data = json!({
        "vm_id": name,
        "local_path": local,
        "guest_path": guest.to_string_lossy(),
        "bytes": copied,
    });
    Ok(Report::new(
        data,
        format!("{verb} {}\n", text::size(copied)),
    ))
}

fn guest_path(typed: &OsString) -> &std::path::Path {
    std::path::Path::new(typed)
}
