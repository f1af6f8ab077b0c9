//! `shell`: the guest's own shell, on this terminal.

use smolvm_sandbox::SandboxId;

use super::exec;
use super::program_args::ProgramArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::values;

/// `shell` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Whose shell: a name or number; root's when not given.
    #[arg(short, long)]
    user: Option<String>,
}

/// Opens the shell.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    exec::run_program(&args.name, ProgramArgs::login_shell(args.user), context).await
}
