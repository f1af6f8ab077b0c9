//! `cleanup`: removes what dead processes have left behind. Every command does so first; this
//! one says what it found.

use serde_json::json;
use smolvm_sandbox::Reaped;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;

/// `cleanup` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

/// Cleans up.
pub(crate) fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let store = context.store()?;
    let reaped = if args.dry_run {
        store.reapable()?
    } else {
        store.reap()?
    };
    let deleted: &[String] = if args.dry_run { &[] } else { &reaped.removed };
    let data = json!({
        "dry_run": args.dry_run,
        "reconciled_stale_ids": reaped.failed,
        "targets": reaped.removed,
        "deleted": deleted,
        "failed": [],
        "remains": reaped.remains,
        "summary": {
            "targets": reaped.removed.len(),
            "deleted": deleted.len(),
            "failed": 0,
            "remains": reaped.remains,
        },
    });
    Ok(Report::new(data, text_of(&reaped, args.dry_run)))
}

fn text_of(reaped: &Reaped, is_dry_run: bool) -> String {
    if *reaped == Reaped::default() {
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
