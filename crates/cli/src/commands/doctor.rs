//! `doctor`: whether sandboxes work on this host; why not, and what to do about it.
//!
//! Every check has a result whatever is missing: a check that cannot be made is a result, too.
//! [`machine`] checks what runs guests, [`files`] what they are made of, [`self_test`] boots one.

mod files;
mod machine;
mod network;
mod self_test;

use serde::Serialize;
use serde_json::json;
use smolvm_sandbox::EngineChoice;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Colour, Report};
use crate::values;

/// `doctor` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The engine to check: auto, kvm or qemu [default: SMOLVM_BACKEND, else auto].
    #[arg(long, alias = "backend", value_parser = values::engine)]
    engine: Option<EngineChoice>,

    /// Take warnings for failures.
    #[arg(long)]
    strict: bool,

    /// Boot a microVM and run a command in it, too.
    #[arg(long)]
    self_test: bool,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// All is well.
    Pass,
    /// Sandboxes work, but not as well or as safely as they could.
    Warn,
    /// Sandboxes do not work.
    Fail,
}

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    /// What was found.
    detail: String,
    /// What to do about it.
    fix: Option<String>,
}

impl Check {
    fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Status::Pass, detail, None)
    }

    fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Status::Warn, detail, Some(fix.into()))
    }

    fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Status::Fail, detail, Some(fix.into()))
    }

    fn new(
        name: &'static str,
        status: Status,
        detail: impl Into<String>,
        fix: Option<String>,
    ) -> Self {
        Self {
            name,
            status,
            detail: detail.into(),
            fix,
        }
    }
}

/// Checks this host.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let installation = &context.installation;
    let requested = args.engine.unwrap_or(context.settings.engine);
    let activity = context.activity("checking this host");
    let mut checks = vec![machine::architecture()];
    let choice = machine::accelerator(installation).await;
    checks.push(machine::kvm(&choice));
    let resolved = machine::resolved(requested, &choice);
    checks.extend(machine::qemu(installation, resolved).await);
    checks.push(machine::engine(&choice, requested, installation));
    checks.push(machine::file_restriction());
    checks.push(machine::namespaces(installation).await);
    checks.push(files::vmm(installation));
    checks.push(files::agent(installation));
    checks.extend(files::cache(installation));
    checks.push(files::host_programs(installation));
    checks.extend(files::data(installation));
    checks.push(network::names());
    checks.push(network::pings());
    drop(activity);
    if args.self_test {
        checks.push(self_test::run(requested, context).await);
    }
    let engines = (requested, resolved);
    Ok(report(&checks, engines, args.strict, context))
}

/// Returns what was found; `engines` are the one asked for and the one that it means.
fn report(
    checks: &[Check],
    (requested, resolved): (EngineChoice, EngineChoice),
    is_strict: bool,
    context: &Context,
) -> Report {
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (failures, warnings) = (count(Status::Fail), count(Status::Warn));
    let is_ok = failures == 0 && (warnings == 0 || !is_strict);
    let data = json!({
        "backend_requested": requested,
        "backend_resolved": resolved.as_str(),
        "system": "Linux",
        "arch": std::env::consts::ARCH,
        "checks": checks,
        "summary": {
            "failures": failures,
            "warnings": warnings,
            "ok": is_ok,
            "strict": is_strict,
        },
    });
    let mut text: String = checks.iter().map(|check| lines(check, context)).collect();
    text.push_str(&match (failures, warnings) {
        (0, 0) => "\nSandboxes work on this host.\n".to_owned(),
        (0, warnings) => format!("\nSandboxes work on this host; warnings: {warnings}.\n"),
        (failures, _) => {
            format!("\nSandboxes do not work on this host yet; failed checks: {failures}.\n")
        }
    });
    let mut report = Report::new(data, text);
    report.exit_code = u8::from(!is_ok);
    report
}

fn lines(check: &Check, context: &Context) -> String {
    let (word, colour) = match check.status {
        Status::Pass => ("pass", Colour::Green),
        Status::Warn => ("warn", Colour::Yellow),
        Status::Fail => ("FAIL", Colour::Red),
    };
    let word = context.paint(colour, word);
    let mut lines = format!("{word}  {:<13} {}\n", check.name, check.detail);
    if let Some(fix) = &check.fix {
        lines.push_str(&format!(
            "{:20}{} {fix}\n",
            "",
            context.paint(Colour::Cyan, "fix:")
        ));
    }
    lines
}
