//! `cleanup`: removes what dead processes have left behind. Every command does so first; this
//! one says what it found, and deletes sandboxes by the beginning of their name where it is told to.

use serde_json::json;
use smolvm_sandbox::{Reaped, SandboxId, SandboxInfo};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;

/// `cleanup` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,

    /// Delete all sandboxes, too, running or not.
    #[arg(long, conflicts_with = "prefix")]
    all: bool,

    /// Delete the sandboxes, too, whose name begins so, running or not.
    #[arg(long)]
    prefix: Option<String>,
}

impl Args {
    /// Returns whether a sandbox that is well is to be deleted, too.
    fn takes(&self, id: &SandboxId) -> bool {
        let prefix = self.prefix.as_deref();
        self.all || prefix.is_some_and(|prefix| id.as_str().starts_with(prefix))
    }
}

/// Cleans up.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let store = context.store()?;
    let reaped = if args.dry_run {
        store.reapable()?
    } else {
        store.reap()?
    };
    let wanted = wanted(&args, &store.list()?, &reaped);
    if !args.dry_run {
        for id in &wanted {
            context.remove(id).await?;
        }
    }
    let names = wanted.iter().map(ToString::to_string);
    let targets: Vec<String> = reaped.removed.iter().cloned().chain(names).collect();
    let deleted: &[String] = if args.dry_run { &[] } else { &targets };
    let data = json!({
        "delete_all": args.all,
        "prefix": args.prefix,
        "dry_run": args.dry_run,
        "reconciled_stale_ids": reaped.failed,
        "targets": targets,
        "deleted": deleted,
        "failed": [],
        "remains": reaped.remains,
        "summary": {
            "targets": targets.len(),
            "deleted": deleted.len(),
            "failed": 0,
            "remains": reaped.remains,
        },
    });
    Ok(Report::new(data, text_of(&reaped, &wanted, args.dry_run)))
}

/// Returns the sandboxes to delete though nothing is wrong with them.
fn wanted(args: &Args, all: &[SandboxInfo], reaped: &Reaped) -> Vec<SandboxId> {
    let ids = all.iter().map(|info| &info.spec.id);
    let is_wanted =
        |id: &&SandboxId| args.takes(id) && !reaped.removed.iter().any(|name| name == id.as_str());
    ids.filter(is_wanted).cloned().collect()
}

fn text_of(reaped: &Reaped, wanted: &[SandboxId], is_dry_run: bool) -> String {
    if *reaped == Reaped::default() && wanted.is_empty() {
        return "Nothing to clean up.\n".to_owned();
    }
    let (removes, marks) = if is_dry_run {
        ("would remove", "would mark as failed")
    } else {
        ("removed", "marked as failed")
    };
    let mut lines = String::new();
    for name in &reaped.removed {
        lines.push_str(&format!("{removes} {name}: its owner is gone\n"));
    }
    for id in wanted {
        lines.push_str(&format!("{removes} {id}\n"));
    }
    for name in &reaped.failed {
        lines.push_str(&format!("{marks} {name}: its supervisor is gone\n"));
    }
    if reaped.remains > 0 {
        lines.push_str(&format!(
            "{removes} {} remains of interrupted commands\n",
            reaped.remains
        ));
    }
    lines
}
