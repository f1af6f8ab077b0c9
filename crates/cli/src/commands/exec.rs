//! `exec`: a command in a running sandbox.

use smolvm_sandbox::SandboxId;

use super::program_args::{self, ProgramArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::output::Report;
use crate::session::{self, Sink};
use crate::values;

/// `exec` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    #[command(flatten)]
    program: ProgramArgs,
}

/// Runs the command.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    run_program(&args.name, args.program, context).await
}

/// Runs a command in the running sandbox `id`.
pub(crate) async fn run_program(
    id: &SandboxId,
    program: ProgramArgs,
    context: &Context,
) -> Result<Report, Failure> {
    let exec = program.exec(&context.settings)?;
    let mut interrupts = Interrupts::listen()?;
    let sandbox = context.sandbox(id)?;
    let mut sink = Sink::new(context.settings.is_json);
    let end = session::run(&sandbox, exec, &mut sink, &mut interrupts).await?;
    Ok(program_args::report(id, &end, sink))
}
