//! The commands, one file each, and how one is run.
//!
//! A command's `Args` are what was typed. It returns a [`Report`] or a
//! [`Failure`] and prints nothing itself, but for what streams.

pub(crate) mod browser;
pub(crate) mod cleanup;
pub(crate) mod completion;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod info;
pub(crate) mod job;
pub(crate) mod kernel;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod network;
pub(crate) mod network_args;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod program_args;
pub(crate) mod record;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod sandbox_args;
pub(crate) mod setup;
pub(crate) mod shell;
pub(crate) mod ssh;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod supervise;
pub(crate) mod template;

use std::process::ExitCode;

use clap::Parser as _;
use smolvm_sandbox::ErrorKind;

use crate::args::{Arguments, Command, Verb};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Report};
use crate::settings::Settings;

/// Runs the command that was typed.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (name, family) = (arguments.command.name(), arguments.command.family());
    let settings = match Settings::resolve(arguments.json) {
        Ok(settings) => settings,
        Err(failure) => {
            return output::conclude(&name, family, arguments.json, false, Err(failure));
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(settings.has_stderr_colour)
        .with_target(false)
        .with_max_level(settings.log_level)
        .init();
    let (is_json, has_colour) = (settings.is_json, settings.has_stderr_colour);
    let outcome = execute(arguments.command, settings);
    output::conclude(&name, family, is_json, has_colour, outcome)
}

fn execute(command: Command, settings: Settings) -> Result<Report, Failure> {
    let context = Context::new(settings);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ErrorKind::Host, format!("start: {error}")))?;
    let outcome = runtime.block_on(dispatch(command, &context));
    // A thread may still wait for input, or prepare an image nobody wants any more.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(command: Command, context: &Context) -> Result<Report, Failure> {
    match command {
        Command::Sandbox(verb) | Command::SandboxAlias(verb) => dispatch_verb(verb, context).await,
        Command::Browser(command) => {
            context.reap()?;
            browser::run(command, context).await
        }
        Command::Kernel(command) => kernel::run(command, context).await,
        Command::Template(command) => template::run(command, context),
        Command::Setup(args) => setup::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Completion(args) => Ok(completion::run(args)),
    }
}

async fn dispatch_verb(verb: Verb, context: &Context) -> Result<Report, Failure> {
    if let Verb::Cleanup(args) = verb {
        return cleanup::run(args, context).await;
    }
    context.reap()?;
    match verb {
        Verb::Run(args) => run::run(args, context).await,
        Verb::Create(args) => create::run(args, context).await,
        Verb::Start(args) => start::run(args, context).await,
        Verb::List(args) => list::run(args, context).await,
        Verb::Info(args) => info::run(args, context).await,
        Verb::Exec(args) => exec::run(args, context).await,
        Verb::Job(command) => job::run(command, context).await,
        Verb::Shell(args) => shell::run(args, context).await,
        Verb::Ssh(args) => ssh::run(args, context).await,
        Verb::Cp(args) => cp::run(args, context).await,
        Verb::File(command) => file::run(command, context).await,
        Verb::Env(command) => env::run(command, context).await,
        Verb::Port(command) => port::run(command, context).await,
        Verb::Network(command) => network::run(command, context).await,
        Verb::Logs(args) => logs::run(args, context).await,
        Verb::Pause(args) => pause::run(args, context).await,
        Verb::Resume(args) => resume::run(args, context).await,
        Verb::Stop(args) => stop::run(args, context).await,
        Verb::Delete(args) => delete::run(args, context).await,
        Verb::Cleanup(args) => cleanup::run(args, context).await,
    }
}
