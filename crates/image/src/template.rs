//! Templates: machines that have booted once and were recorded, for others to go on from.
//!
//! Who records them is somebody else; here is where they are kept, and which of them go when they
//! take too much space.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::cache::{Artefact, ArtefactKind, Cache, CacheError, Entry, Key};
use crate::digest::Digest;
use crate::progress::Progress;

/// Version of what a template's files are; part of the key.
const FORMAT: u32 = 1;

/// Most bytes that all templates together take on the disk, some forty of the smallest.
const MAX_BYTES: u64 = 4 << 30;

/// How long a template stays after it was used, whatever all take: its files are opened only when
/// the machine is started.
const SPARED: Duration = Duration::from_secs(600);

/// File names inside the artefact.
const MEMORY_FILE: &str = "memory";
const STATE_FILE: &str = "state";
const DISK_FILE: &str = "overlay.ext4";

/// All that a template depends on, by name. It is of use where all of it is equal.
pub type TemplateRecipe = BTreeMap<String, String>;

/// The files of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The guest's memory.
    pub memory: PathBuf,
    /// The state of its processors and devices.
    pub state: PathBuf,
    /// Its writable disk as it was then: to be copied with [`copy_sparse`](crate::copy_sparse).
    pub disk: PathBuf,
}

/// A template in the cache.
#[derive(Debug, Clone)]
pub struct CachedTemplate {
    /// Its name.
    pub name: String,
    /// What it depends on; empty where it is damaged.
    pub recipe: TemplateRecipe,
    /// When a machine went on from it last.
    pub used: SystemTime,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
}

impl Template {
    fn within(directory: &Path) -> Self {
        Self {
            memory: directory.join(MEMORY_FILE),
            state: directory.join(STATE_FILE),
            disk: directory.join(DISK_FILE),
        }
    }

    fn from_artefact(artefact: &Artefact) -> Self {
        Self {
            memory: artefact.path(MEMORY_FILE),
            state: artefact.path(STATE_FILE),
            disk: artefact.path(DISK_FILE),
        }
    }
}

impl From<Entry> for CachedTemplate {
    fn from(entry: Entry) -> Self {
        Self {
            name: entry.key,
            recipe: entry.inputs,
            used: entry.used,
            bytes: entry.bytes,
        }
    }
}

/// Returns the template of `recipe`; where there is none yet, `record` makes its files, and those
/// that were used longest ago go when all take more than 4 GiB.
///
/// # Errors
///
/// Those of `record`, and when the cache fails.
pub fn template<E: From<CacheError>>(
    cache: &Cache,
    recipe: &TemplateRecipe,
    progress: &dyn Progress,
    record: impl FnOnce(&Template) -> Result<(), E>,
) -> Result<Template, E> {
    let mut is_new = false;
    let artefact = cache.obtain(
        &key(recipe),
        progress,
        |artefact| artefact.inputs() == recipe,
        |staging| {
            record(&Template::within(&staging.output()))?;
            is_new = true;
            Ok::<_, E>(recipe.clone())
        },
    )?;
    if is_new {
        cache.evict(ArtefactKind::Template, MAX_BYTES, SPARED)?;
    } else {
        artefact.touch();
    }
    Ok(Template::from_artefact(&artefact))
}

/// Returns the templates there are, the one that was used last first.
///
/// # Errors
///
/// When the cache cannot be read.
pub fn templates(cache: &Cache) -> Result<Vec<CachedTemplate>, CacheError> {
    let entries = cache.entries(ArtefactKind::Template)?;
    Ok(entries.into_iter().map(CachedTemplate::from).collect())
}

/// Removes the templates that nobody has used for so long, and returns them. Machines that went on
/// from them are not affected.
///
/// # Errors
///
/// When the cache cannot be read, or a template not be removed.
pub fn prune_templates(
    cache: &Cache,
    unused_for: Duration,
) -> Result<Vec<CachedTemplate>, CacheError> {
    let mut removed = Vec::new();
    for entry in cache.entries(ArtefactKind::Template)? {
        if cache.remove(&entry, unused_for)? {
            removed.push(entry.into());
        }
    }
    Ok(removed)
}

fn key(recipe: &TemplateRecipe) -> Key {
    use std::fmt::Write as _;

    let mut text = format!("{FORMAT}\n");
    for (name, value) in recipe {
        let _infallible = writeln!(text, "{name} {value}");
    }
    Key::new(
        ArtefactKind::Template,
        Digest::of_bytes(text.as_bytes()).short(),
    )
}
