//! `run`: a command in a sandbox of its own.
//!
//! ```text
//!   create -> start -> command -> delete
//!      signal: ^        ^ passed on    \-- always, however the command ended
//! ```
//!
//! The sandbox is leased to this process: a death of any kind takes it along.

use smolvm_sandbox::{
    End, EngineChoice, Lifetime, Sandbox, SandboxSpec, SecretSpec, StartReport, accelerator,
};

use serde_json::json;

use super::program_args::{self, ProgramArgs, milliseconds};
use super::sandbox_args::SandboxArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::output::{self, Report};
use crate::session::{self, Sink};
use crate::{table, text};

/// `run` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep the sandbox, running, and print its name to standard error.
    #[arg(long)]
    keep: bool,

    /// Print to standard error what ran the sandbox, why, and how long each phase took.
    #[arg(long)]
    timings: bool,

    #[command(flatten)]
    sandbox: SandboxArgs,

    #[command(flatten, next_help_heading = "Command")]
    program: ProgramArgs,
}

/// Runs the command.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let lifetime = if args.keep {
        Lifetime::Persistent
    } else {
        Lifetime::Leased
    };
    let secrets = args.sandbox.secrets()?;
    let spec = args.sandbox.spec(lifetime, &context.settings)?;
    let exec = args.program.exec(&context.settings)?;
    let mut interrupts = Interrupts::listen()?;
    let (sandbox, started) = started(&spec, secrets, context, &mut interrupts).await?;
    let mut sink = Sink::new(context.settings.is_json);
    let ended = session::run(&sandbox, exec, &mut sink, &mut interrupts).await;
    // However the command ended: first the sandbox goes, then it is said how it ended.
    if !args.keep {
        sandbox.delete().await?;
    }
    let end = ended?;
    let mut report = program_args::report(&spec.id, &end, sink);
    let reason = engine_reason(&spec, context).await;
    report.data["engine"] = json!(started.engine);
    report.data["engine_reason"] = json!(reason);
    report.data["timings"] = json!({
        "preparation_ms": milliseconds(started.preparation),
        "boot_ms": milliseconds(started.boot),
        "command_ms": milliseconds(end.elapsed),
    });
    if args.timings && !context.settings.is_json {
        show_timings(&started, &end, &reason);
    }
    if args.keep && !context.settings.is_json {
        output::error_line(&format!("sandbox {} is kept, running", spec.id));
    }
    Ok(report)
}

/// Creates the sandbox and starts it. When that fails or a signal asks for the end, nothing is
/// left of it.
async fn started(
    spec: &SandboxSpec,
    secrets: Vec<SecretSpec>,
    context: &Context,
    interrupts: &mut Interrupts,
) -> Result<(Sandbox, StartReport), Failure> {
    let activity = context.activity("starting sandbox");
    let create = Sandbox::create_with_secrets(
        context.installation.clone(),
        spec.clone(),
        secrets,
        activity.progress(),
    );
    // Not interrupted: it takes moments, and half of it could not be told from a live one.
    let sandbox = create.await?;
    let outcome = tokio::select! {
        started = sandbox.start(activity.progress()) => started
            .map_err(Failure::from)
            .and_then(|started| started.booted().ok_or_else(Failure::started_by_another)),
        signal = interrupts.next() => Err(Failure::interrupted(signal)),
    };
    match outcome {
        Ok(report) => Ok((sandbox, report)),
        Err(failure) => {
            // Fails where the start has cleaned up already, or a supervisor does not listen yet.
            if sandbox.delete().await.is_err() {
                context.remove(&spec.id).await?;
            }
            Err(failure)
        }
    }
}

/// Says in words why the engine is what it is.
async fn engine_reason(spec: &SandboxSpec, context: &Context) -> String {
    if spec.engine == EngineChoice::Fake {
        return "it was asked for".to_owned();
    }
    match accelerator::choose(&context.installation).await {
        Ok(choice) => choice.reason,
        Err(error) => text::chain(&error),
    }
}

fn show_timings(started: &StartReport, end: &End, reason: &str) {
    let pairs = [
        ("preparation", text::duration(started.preparation)),
        ("boot", text::duration(started.boot)),
        ("command", text::duration(end.elapsed)),
        ("engine", format!("{}: {reason}", started.engine)),
    ];
    output::error_line(table::pairs(&pairs).trim_end());
}
