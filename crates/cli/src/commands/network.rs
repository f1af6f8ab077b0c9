//! `network`: what a sandbox may reach, and what it has reached.

mod event_line;
mod log;

use serde_json::json;
use smolvm_sandbox::control::NetworkChange;
use smolvm_sandbox::{Mode, NetworkMembers, NetworkPolicy, Rule, SandboxId};

use crate::commands::network_args::asked;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::values;

/// `network` as typed.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what a sandbox may reach, and who is in its private networks.
    Show(ShowArgs),
    /// Allow names, addresses or networks, at once.
    Allow(AllowArgs),
    /// Deny names, addresses or networks, at once; connections that are open end.
    Deny(DenyArgs),
    /// Remove rules, at once.
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
    /// Set the mode, and the rules that are given instead of those there are, at once.
    Set(SetArgs),
    /// Show what a sandbox has asked for and reached, and by which rules.
    Log(log::Args),
}

/// `network show` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,
}

/// `network allow` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct AllowArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// What is allowed, as in example.com:443, *.example.com or 203.0.113.0/24.
    #[arg(required = true, value_name = "RULE", value_parser = values::allow_rule)]
    rules: Vec<Rule>,
}

/// `network deny` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct DenyArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// What is denied, as in example.com or 203.0.113.0/24.
    #[arg(required = true, value_name = "RULE", value_parser = values::deny_rule)]
    rules: Vec<Rule>,
}

/// `network remove` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// The rules as `network show` shows them, such as "allow example.com".
    #[arg(required = true, value_name = "RULE", value_parser = values::rule)]
    rules: Vec<Rule>,
}

/// `network set` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// off, restricted or open.
    #[arg(value_parser = values::network_mode, required_unless_present = "policy")]
    mode: Option<Mode>,

    /// Take the mode and rules from a file, as `network show` prints them.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "mode",
        value_parser = values::policy_file,
    )]
    policy: Option<NetworkPolicy>,

    /// Allow this; can be given more than once.
    #[arg(long, value_name = "RULE", value_parser = values::allow_rule)]
    allow: Vec<Rule>,

    /// Deny this; can be given more than once.
    #[arg(long, value_name = "RULE", value_parser = values::deny_rule)]
    deny: Vec<Rule>,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Show(_) => "network.show",
            Self::Allow(_) => "network.allow",
            Self::Deny(_) => "network.deny",
            Self::Remove(_) => "network.remove",
            Self::Set(_) => "network.set",
            Self::Log(_) => "network.log",
        }
    }
}

/// Shows or changes.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Report, Failure> {
    match command {
        Command::Show(args) => show(&args.name, context),
        Command::Allow(AllowArgs { name, rules }) | Command::Deny(DenyArgs { name, rules }) => {
            let change = NetworkChange {
                add: texts(&rules),
                ..NetworkChange::default()
            };
            change_network(&name, &change, context).await
        }
        Command::Remove(args) => {
            let change = NetworkChange {
                remove: texts(&args.rules),
                ..NetworkChange::default()
            };
            change_network(&args.name, &change, context).await
        }
        Command::Set(args) => {
            let policy = asked(args.policy.as_ref(), args.mode, &args.allow, &args.deny)?;
            let change = NetworkChange {
                mode: Some(policy.mode().to_string()),
                clears_rules: true,
                add: texts(policy.rules()),
                ..NetworkChange::default()
            };
            change_network(&args.name, &change, context).await
        }
        Command::Log(args) => log::run(args, context).await,
    }
}

fn texts(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(Rule::to_string).collect()
}

async fn change_network(
    name: &SandboxId,
    change: &NetworkChange,
    context: &Context,
) -> Result<Report, Failure> {
    context.sandbox(name)?.change_network(change).await?;
    show(name, context)
}

fn show(name: &SandboxId, context: &Context) -> Result<Report, Failure> {
    let sandbox = context.sandbox(name)?;
    let policy = sandbox.network_policy()?;
    let networks = sandbox.networks()?;
    let document = json!({
        "mode": policy.mode().to_string(),
        "rules": texts(policy.rules()),
        "networks": networks,
    });
    Ok(Report::new(document, described(&policy, &networks)))
}

/// Returns a policy as a file has it, with the private networks in lines that mean nothing there.
fn described(policy: &NetworkPolicy, networks: &[NetworkMembers]) -> String {
    let networks = networks.iter().map(|NetworkMembers { name, members }| {
        let members: Vec<&str> = members.iter().map(SandboxId::as_str).collect();
        format!("# network {name}: {}\n", members.join(", "))
    });
    format!("{policy}{}", networks.collect::<String>())
}
