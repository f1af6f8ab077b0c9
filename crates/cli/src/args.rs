//! The command line as typed.

use clap::{Parser, Subcommand};

use crate::commands::{
    browser, cleanup, completion, cp, create, delete, doctor, env, exec, file, info, job, kernel,
    list, logs, network, pause, port, resume, run, setup, shell, ssh, start, stop, template,
};
use crate::failure::Family;

/// MicroVM sandboxes: a computer of its own for every program an agent runs.
#[derive(Debug, Parser)]
#[command(
    name = "smolvm",
    version,
    arg_required_else_help = true,
    after_help = "First time here? Try: smolvm run -- uname -a"
)]
pub(crate) struct Arguments {
    /// Print one JSON document to standard output, and nothing else.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Sandbox(Verb),
    /// The same commands for sandboxes, by the name of what they work on.
    #[command(name = "sandbox", subcommand, alias = "sandboxes")]
    SandboxAlias(Verb),
    /// Start and stop browsers, each in a sandbox of its own.
    #[command(subcommand, alias = "browsers")]
    Browser(browser::Command),
    /// Build, list and choose the kernels that guests boot.
    #[command(subcommand, alias = "kernels")]
    Kernel(kernel::Command),
    /// See and remove the machines that new sandboxes go on from.
    #[command(subcommand, alias = "templates")]
    Template(template::Command),
    /// Prepare what guests boot from, so that the first run need not.
    Setup(setup::Args),
    /// Check whether sandboxes work on this host; say why not, and what to do about it.
    Doctor(doctor::Args),
    /// Print the script that completes smolvm's commands in a shell.
    Completion(completion::Args),
}

/// What to do with sandboxes.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a command in a new sandbox, which is gone afterwards.
    Run(run::Args),
    /// Create a sandbox that stays until it is deleted.
    Create(create::Args),
    /// Start sandboxes.
    Start(start::Args),
    /// List sandboxes: those that run, or all.
    #[command(visible_alias = "ls", alias = "ps")]
    List(list::Args),
    /// Show all that is known of a sandbox.
    #[command(visible_alias = "inspect")]
    Info(info::Args),
    /// Run a command in a running sandbox.
    Exec(exec::Args),
    /// Start commands that go on without you, and see what became of them.
    #[command(subcommand, visible_alias = "jobs")]
    Job(job::Command),
    /// Open a shell in a running sandbox.
    Shell(shell::Args),
    /// Open a shell through the ssh server of a sandbox's image, with the host's ssh.
    Ssh(ssh::Args),
    /// Copy files and directories into a sandbox or out of it.
    Cp(cp::Args),
    /// Copy one file into a sandbox or out of it.
    #[command(subcommand)]
    File(file::Command),
    /// Set, unset and list variables that every login shell of a sandbox sees.
    #[command(subcommand)]
    Env(env::Command),
    /// Make ports of a sandbox reachable on this host.
    #[command(subcommand)]
    Port(port::Command),
    /// See and change what a sandbox may reach, and what it has reached.
    #[command(subcommand, visible_alias = "net")]
    Network(network::Command),
    /// Show what a sandbox's console said.
    Logs(logs::Args),
    /// Hold running sandboxes still; their memory is kept.
    Pause(pause::Args),
    /// Let paused sandboxes go on.
    #[command(alias = "unpause")]
    Resume(resume::Args),
    /// Stop sandboxes; their disks are kept.
    Stop(stop::Args),
    /// Delete sandboxes with all their files, running or not.
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
    /// Remove what dead processes have left behind.
    Cleanup(cleanup::Args),
}

impl Command {
    /// Returns the command's name as JSON documents spell it, with dots.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Sandbox(verb) => verb.name().to_owned(),
            Self::SandboxAlias(verb) => format!("sandbox.{}", verb.name()),
            Self::Browser(command) => command.name().to_owned(),
            Self::Kernel(command) => command.name().to_owned(),
            Self::Template(command) => command.name().to_owned(),
            Self::Setup(_) => "setup".to_owned(),
            Self::Doctor(_) => "doctor".to_owned(),
            Self::Completion(_) => "completion".to_owned(),
        }
    }

    /// Returns which exit codes the command has.
    pub(crate) const fn family(&self) -> Family {
        match self {
            Self::Sandbox(verb) | Self::SandboxAlias(verb) if verb.is_passing() => Family::Passing,
            _ => Family::Managing,
        }
    }
}

impl Verb {
    /// Returns whether the exit code is that of a command in a guest.
    const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Exec(_)
                | Self::Job(job::Command::Attach(_))
                | Self::Shell(_)
                | Self::Ssh(_)
        )
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::List(_) => "list",
            Self::Info(_) => "info",
            Self::Exec(_) => "exec",
            Self::Job(command) => command.name(),
            Self::Shell(_) => "shell",
            Self::Ssh(_) => "ssh",
            Self::Cp(_) => "cp",
            Self::File(command) => command.name(),
            Self::Env(command) => command.name(),
            Self::Port(command) => command.name(),
            Self::Network(command) => command.name(),
            Self::Logs(_) => "logs",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::Stop(_) => "stop",
            Self::Delete(_) => "delete",
            Self::Cleanup(_) => "cleanup",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definitions_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
