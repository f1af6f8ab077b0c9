//! `env`: variables that every login shell of a sandbox sees.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::json;
use smolvm_sandbox::{ErrorKind, SandboxId};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::values::Variable;
use crate::{settings, values};

/// What is shown instead of a value.
const MASK: &str = "****";

/// Who sees a change.
const RELOAD_HINT: &str = "login shells that start from now on see the change";

/// `env` as typed.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Set variables, beside those that are set already.
    Set(SetArgs),
    /// Unset variables.
    Unset(UnsetArgs),
    /// List the variables; their values only when asked for.
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

/// `env set` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Variables: KEY=VALUE, or KEY alone to pass this shell's value on without showing it.
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = clap::builder::OsStringValueParser::new())]
    variables: Vec<OsString>,
}

/// `env unset` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct UnsetArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Names of the variables.
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

/// `env list` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Show the values, too.
    #[arg(long)]
    show_values: bool,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Set(_) => "env.set",
            Self::Unset(_) => "env.unset",
            Self::List(_) => "env.list",
        }
    }
}

/// Sets, unsets or lists.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Report, Failure> {
    match command {
        Command::Set(args) => set(args, context).await,
        Command::Unset(args) => unset(args, context).await,
        Command::List(args) => list(args, context).await,
    }
}

async fn set(args: SetArgs, context: &Context) -> Result<Report, Failure> {
    let variables = args
        .variables
        .into_iter()
        .map(pair)
        .collect::<Result<BTreeMap<_, _>, _>>()?;
    let requested: Vec<&String> = variables.keys().collect();
    let present = context
        .sandbox(&args.name)?
        .set_env(&variables, true)
        .await?;
    let data = json!({
        "vm_id": args.name,
        "requested_keys": requested,
        "present_keys": present,
        "reload_hint": RELOAD_HINT,
    });
    let text = format!("set {}; {RELOAD_HINT}\n", joined(&requested));
    Ok(Report::new(data, text))
}

async fn unset(args: UnsetArgs, context: &Context) -> Result<Report, Failure> {
    let sandbox = context.sandbox(&args.name)?;
    let removed = sandbox.unset_env(&args.keys).await?;
    let present: Vec<String> = sandbox.env().await?.into_keys().collect();
    let (removed, missing): (Vec<&String>, Vec<&String>) =
        args.keys.iter().partition(|key| removed.contains_key(*key));
    let data = json!({
        "vm_id": args.name,
        "requested_keys": args.keys,
        "removed_keys": removed,
        "missing_keys": missing,
        "present_keys": present,
        "reload_hint": RELOAD_HINT,
    });
    let mut text = String::new();
    if !removed.is_empty() {
        text.push_str(&format!("unset {}; {RELOAD_HINT}\n", joined(&removed)));
    }
    if !missing.is_empty() {
        text.push_str(&format!("not set: {}\n", joined(&missing)));
    }
    Ok(Report::new(data, text))
}

async fn list(args: ListArgs, context: &Context) -> Result<Report, Failure> {
    let variables = context.sandbox(&args.name)?.env().await?;
    let shown: BTreeMap<&String, &str> = variables
        .iter()
        .map(|(key, value)| (key, if args.show_values { value } else { MASK }))
        .collect();
    let data = json!({
        "vm_id": args.name,
        "masked": !args.show_values,
        "variables": shown,
    });
    let text: String = shown
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    Ok(Report::new(data, text))
}

/// Returns a variable with its value. Unlike those of one command, these are text.
pub(super) fn pair(typed: OsString) -> Result<(String, String), Failure> {
    let Variable { name, value } = Variable::from(typed);
    let shown = name.to_string_lossy().into_owned();
    let value = match value {
        Some(value) => value,
        None => settings::passed_on(&name).ok_or_else(|| {
            invalid(format!(
                "{shown} is not set here, so there is nothing to pass on"
            ))
            .hint(format!("give the value: smolvm env set NAME {shown}=VALUE"))
        })?,
    };
    let not_text = |_| invalid(format!("{shown} is not UTF-8 text"));
    let value = value.into_string().map_err(not_text)?;
    Ok((name.into_string().map_err(not_text)?, value))
}

fn invalid(message: String) -> Failure {
    Failure::new(ErrorKind::InvalidInput, message)
}

fn joined<T: AsRef<str>>(names: &[T]) -> String {
    names
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_keeps_its_equals_signs_and_line_breaks() {
        let (key, value) = pair(OsString::from("A=b=c\nd")).expect("legal");
        assert_eq!((key.as_str(), value.as_str()), ("A", "b=c\nd"));
    }

    #[test]
    fn variable_that_is_not_set_here_is_named() {
        let failure = pair(OsString::from("SMOLVM_SURELY_NOT_SET")).expect_err("not set");
        assert!(
            failure.message.contains("SMOLVM_SURELY_NOT_SET"),
            "{}",
            failure.message
        );
    }
}
