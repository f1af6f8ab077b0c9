//! `template`: the machines that have booted once, for new sandboxes to go on from.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use smolvm_image::{Cache, CachedTemplate, prune_templates, templates};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::table::table;
use crate::{text, values};

/// `template` as typed.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the templates there are, the one that was used last first.
    #[command(visible_alias = "ls")]
    List,
    /// Remove templates. Sandboxes are not affected; the next one like them makes its template anew.
    Prune(PruneArgs),
}

/// `template prune` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Only those that no sandbox has gone on from for so long, such as 24h.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    unused_for: Option<Duration>,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::List => "template.list",
            Self::Prune(_) => "template.prune",
        }
    }
}

/// Lists or removes.
pub(crate) fn run(command: Command, context: &Context) -> Result<Report, Failure> {
    let cache = Cache::open(&context.installation.cache_dir)?;
    match command {
        Command::List => list(&cache),
        Command::Prune(args) => prune(&cache, &args),
    }
}

fn list(cache: &Cache) -> Result<Report, Failure> {
    let listed = templates(cache)?;
    let rows: Vec<[String; 8]> = listed.iter().map(row).collect();
    let text = match rows.as_slice() {
        [] => "There are no templates: the first sandbox of a kind makes one.\n".to_owned(),
        rows => table(
            [
                "NAME", "IMAGE", "ENGINE", "CPUS", "MEMORY", "DISK", "SIZE", "USED",
            ],
            rows,
        ),
    };
    let templates: Vec<Value> = listed.iter().map(template_json).collect();
    Ok(Report::new(json!({ "templates": templates }), text))
}

fn prune(cache: &Cache, args: &PruneArgs) -> Result<Report, Failure> {
    let removed = prune_templates(cache, args.unused_for.unwrap_or_default())?;
    let bytes: u64 = removed.iter().map(|template| template.bytes).sum();
    let text = match removed.len() {
        0 => "No template was removed.\n".to_owned(),
        1 => format!(
            "1 template was removed, which took {}.\n",
            text::size(bytes)
        ),
        count => format!(
            "{count} templates were removed, which took {}.\n",
            text::size(bytes)
        ),
    };
    let removed: Vec<Value> = removed.iter().map(template_json).collect();
    Ok(Report::new(
        json!({ "removed": removed, "size_bytes": bytes }),
        text,
    ))
}

fn row(template: &CachedTemplate) -> [String; 8] {
    let mib = |name| match recipe(template, name) {
        "" => "-".to_owned(),
        mib => format!("{mib} MiB"),
    };
    let word = |name| match recipe(template, name).split(' ').next() {
        None | Some("") => "-".to_owned(),
        Some(word) => word.to_owned(),
    };
    [
        template.name.clone(),
        word("image"),
        word("engine"),
        word("cpus"),
        mib("memory-mib"),
        mib("disk-mib"),
        text::size(template.bytes),
        text::age(template.used.elapsed().unwrap_or_default()),
    ]
}

fn template_json(template: &CachedTemplate) -> Value {
    let number = |name| recipe(template, name).parse::<u64>().ok();
    json!({
        "name": template.name,
        "image": template.recipe.get("image"),
        "engine": recipe(template, "engine").split(' ').next(),
        "vcpus": number("cpus"),
        "memory_mib": number("memory-mib"),
        "disk_mib": number("disk-mib"),
        "network": recipe(template, "network").parse::<bool>().ok(),
        "size_bytes": template.bytes,
        "used_unix_ms": unix_ms(template.used),
    })
}

/// Returns what a template depends on in one respect, or nothing where it is damaged.
fn recipe<'a>(template: &'a CachedTemplate, name: &str) -> &'a str {
    template.recipe.get(name).map_or("", String::as_str)
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
