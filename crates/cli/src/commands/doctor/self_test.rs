//! The proof: a microVM that boots and runs a command.

use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use smolvm_sandbox::message::{Command, Exec, Limits};
use smolvm_sandbox::{EndReason, EngineChoice, Lifetime, Output, Sandbox, SandboxId, SandboxSpec};

use super::Check;
use crate::context::Context;
use crate::failure::Failure;
use crate::text;

/// What is run, and what it must say.
const WORD: &str = "works";

/// Milliseconds the command may take; it takes a few.
const COMMAND_TIMEOUT_MS: u64 = 30_000;

/// What the test measured.
struct Measured {
    engine: String,
    kernel: String,
    preparation: Duration,
    boot: Duration,
    command: Duration,
}

/// Boots a microVM of the engine `requested`, and runs a command in it.
pub(super) async fn run(requested: EngineChoice, context: &Context) -> Check {
    let mut spec = SandboxSpec::new(SandboxId::random(), Lifetime::Leased);
    spec.engine = requested;
    let id = spec.id.clone();
    let measured = measure(spec, context).await;
    let removed = context.remove(&id).await;
    match (measured, removed) {
        (Ok(measured), Ok(())) => Check::pass(
            "self-test",
            format!(
                "a microVM ran a command: {}, Linux {}, prepared in {}, booted in {}, answered \
                 in {}",
                measured.engine,
                measured.kernel,
                text::duration(measured.preparation),
                text::duration(measured.boot),
                text::duration(measured.command),
            ),
        ),
        (Err(failure), _) | (_, Err(failure)) => Check::fail(
            "self-test",
            with_console(&failure),
            failure
                .hints
                .first()
                .cloned()
                .unwrap_or_else(|| "see the checks above".to_owned()),
        ),
    }
}

fn with_console(failure: &Failure) -> String {
    let mut detail = failure.message.clone();
    for line in &failure.console_tail {
        detail.push_str("\n                    console: ");
        detail.push_str(line);
    }
    detail
}

async fn measure(spec: SandboxSpec, context: &Context) -> Result<Measured, Failure> {
    let activity = context.activity("booting a microVM");
    let installation = context.installation.clone();
    let sandbox = Sandbox::create(installation, spec, activity.progress()).await?;
    let started = sandbox.start(activity.progress()).await?;
    let report = started.booted().ok_or_else(Failure::started_by_another)?;
    let asked = Instant::now();
    let said = ask(&sandbox).await;
    let command = asked.elapsed();
    sandbox.delete().await?;
    let said = said?;
    if said != format!("{WORD}\n") {
        let message = format!("the command said {said:?} instead of {WORD:?}");
        return Err(Failure::new(
            smolvm_sandbox::ErrorKind::GuestFailed,
            message,
        ));
    }
    Ok(Measured {
        engine: report.engine,
        kernel: report.ready.kernel_release,
        preparation: report.preparation,
        boot: report.boot,
        command,
    })
}

/// Runs a command that says a word, and returns what it said.
async fn ask(sandbox: &Sandbox) -> Result<String, Failure> {
    let words = ["echo", WORD].map(ByteBuf::from);
    let mut process = sandbox
        .exec(Exec {
            command: Command::Arguments(words.into()),
            environment: Vec::new(),
            working_directory: None,
            user: None,
            stdin: false,
            terminal: None,
            timeout_ms: Some(COMMAND_TIMEOUT_MS),
            limits: Limits::default(),
        })
        .await?;
    let mut said = Vec::new();
    loop {
        match process.output.next().await? {
            Output::Stdout(bytes) => said.extend_from_slice(&bytes),
            Output::Stderr(_) => {}
            Output::End(end) => {
                return match end.reason {
                    EndReason::Guest(_) => Ok(text::printable(&said)),
                    reason => Err(Failure::new(
                        smolvm_sandbox::ErrorKind::GuestFailed,
                        format!("the command ended as {}", reason.as_str()),
                    )),
                };
            }
        }
    }
}
