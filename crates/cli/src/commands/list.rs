//! `list`: the sandboxes that run, or all.

use serde_json::json;
use smolvm_sandbox::{SandboxInfo, SandboxState};

use crate::context::{Context, colour_of, elapsed_since};
use crate::failure::Failure;
use crate::output::Report;
use crate::table::table;
use crate::{text, values};

/// `list` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// All of them, whatever their state.
    #[arg(short, long, conflicts_with = "status")]
    all: bool,

    /// Only those in this state.
    #[arg(long, value_parser = state)]
    status: Option<SandboxState>,

    /// Only those with this label; can be given more than once.
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = label)]
    labels: Vec<(String, Option<String>)>,
}

fn label(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = values::label(text)?;
    Ok((key, text.contains('=').then_some(value)))
}

fn has_labels(sandbox: &SandboxInfo, labels: &[(String, Option<String>)]) -> bool {
    labels.iter().all(|(key, value)| {
        let found = sandbox.spec.labels.get(key);
        match value {
            Some(value) => found == Some(value),
            None => found.is_some(),
        }
    })
}

fn state(name: &str) -> Result<SandboxState, String> {
    SandboxState::ALL
        .into_iter()
        .find(|state| state.as_str() == name)
        .ok_or_else(|| {
            let names = SandboxState::ALL.map(SandboxState::as_str);
            format!("there are these states: {}", names.join(", "))
        })
}

/// Lists the sandboxes.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let is_shown = |state: SandboxState| match args.status {
        Some(status) => state == status,
        None => args.all || state == SandboxState::Running,
    };
    let mut sandboxes = context.store()?.list()?;
    let total = sandboxes.len();
    sandboxes.retain(|sandbox| is_shown(sandbox.state) && has_labels(sandbox, &args.labels));
    let mut vms = Vec::new();
    for sandbox in &sandboxes {
        vms.push(context.vm_json(sandbox).await);
    }
    let data = json!({"filters": {"all": args.all, "status": args.status}, "vms": vms});
    Ok(Report::new(data, text_of(&sandboxes, total, context)))
}

fn text_of(sandboxes: &[SandboxInfo], total: usize, context: &Context) -> String {
    match (sandboxes.len(), total) {
        (0, 0) => return "There are no sandboxes. Create one: smolvm create\n".to_owned(),
        (0, others) => {
            return format!("None to show; {others} in other states: smolvm list --all\n");
        }
        _ => {}
    }
    let rows: Vec<[String; 7]> = sandboxes.iter().map(row).collect();
    let headings = [
        "NAME", "STATUS", "IMAGE", "ENGINE", "MEMORY", "DISK", "CREATED",
    ];
    let mut lines = table(headings, &rows);
    for sandbox in sandboxes {
        // Painted afterwards, since colours have no width.
        let state = sandbox.state.as_str();
        let plain = format!("  {state} ");
        let painted = format!("  {} ", context.paint(colour_of(sandbox.state), state));
        lines = lines.replacen(&plain, &painted, 1);
    }
    lines
}

fn row(sandbox: &SandboxInfo) -> [String; 7] {
    [
        sandbox.spec.id.to_string(),
        sandbox.state.as_str().to_owned(),
        sandbox.spec.image.clone(),
        sandbox.engine.clone().unwrap_or_else(|| "-".to_owned()),
        text::size(u64::from(sandbox.spec.memory.get()) << 20),
        text::size(sandbox.disk_used_bytes),
        text::age(elapsed_since(sandbox.created_unix_ms)),
    ]
}
