//! Letting artefacts go: how much they take, when they were used last, and their removal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::manifest::{MANIFEST_FILE, Manifest};
use super::{Artefact, ArtefactKind, Cache, CacheError, io_error, unix_ms};

/// Unit of `st_blocks`, in bytes (stat(3type)).
const BLOCK_BYTES: u64 = 512;

/// An artefact, as what takes space.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    directory: PathBuf,
    kind: ArtefactKind,
    /// The name of its key.
    pub(crate) key: String,
    /// What it was made of; nothing where its manifest cannot be read.
    pub(crate) inputs: BTreeMap<String, String>,
    /// When it was used last.
    pub(crate) used: SystemTime,
    /// Bytes that it takes on the disk.
    pub(crate) bytes: u64,
}

impl Entry {
    /// Returns for how long nobody has used it.
    pub(crate) fn idle(&self) -> Duration {
        // A clock that was set back makes it fresh.
        self.used.elapsed().unwrap_or_default()
    }
}

impl Artefact {
    /// Takes note that it is used. One that cannot be noted may go too early, and is made again.
    pub(crate) fn touch(&self) {
        let manifest = File::open(self.directory.join(MANIFEST_FILE));
        let _unnoted = manifest.and_then(|file| file.set_modified(SystemTime::now()));
    }
}

impl Cache {
    /// Returns all artefacts of a kind, the one that was used last first.
    pub(crate) fn entries(&self, kind: ArtefactKind) -> Result<Vec<Entry>, CacheError> {
        let mut entries = Vec::new();
        for directory in self.directories(kind)? {
            entries.extend(entry(kind, &directory));
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.used));
        Ok(entries)
    }

    /// Removes what was used longest ago, until all of a kind take at most `max_bytes` together.
    /// What was used within `spared` stays: somebody may be about to open its files.
    pub(crate) fn evict(
        &self,
        kind: ArtefactKind,
        max_bytes: u64,
        spared: Duration,
    ) -> Result<(), CacheError> {
        let mut entries = self.entries(kind)?;
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        while total > max_bytes
            && let Some(oldest) = entries.pop()
        {
            if self.remove(&oldest, spared)? {
                total -= oldest.bytes;
            }
        }
        Ok(())
    }

    /// Removes an artefact, unless it was used within `spared`. Returns whether it is gone by this.
    ///
    /// Whoever has its files open keeps them.
    pub(crate) fn remove(&self, entry: &Entry, spared: Duration) -> Result<bool, CacheError> {
        // Looked at again: a list is a moment old.
        if self::entry(entry.kind, &entry.directory).is_none_or(|now| now.idle() < spared) {
            return Ok(false);
        }
        // By one rename, as it came; what a killed remover leaves here, the next builder sweeps.
        let name = format!(
            "{}-{}.removed-{}",
            entry.kind.directory(),
            entry.key,
            unix_ms()
        );
        let target = self.root.join("staging").join(name);
        match fs::rename(&entry.directory, &target) {
            Ok(()) => {}
            // Another process was first.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(io_error("remove", &entry.directory, source)),
        }
        fs::remove_dir_all(&target).map_err(|source| io_error("remove", &target, source))?;
        Ok(true)
    }
}

/// Returns the artefact in `directory`, if it is still there.
fn entry(kind: ArtefactKind, directory: &Path) -> Option<Entry> {
    let manifest = Manifest::read(directory).ok().flatten();
    let name = directory.file_name()?.to_str()?;
    let key = name.split('.').next().unwrap_or_default().to_owned();
    let used = fs::metadata(directory.join(MANIFEST_FILE))
        .or_else(|_| fs::metadata(directory))
        .and_then(|metadata| metadata.modified())
        .ok()?;
    let files = fs::read_dir(directory).ok()?.flatten();
    let blocks = files
        .flat_map(|file| file.metadata())
        .map(|file| file.blocks());
    Some(Entry {
        directory: directory.to_owned(),
        kind,
        key,
        inputs: manifest.map(|manifest| manifest.inputs).unwrap_or_default(),
        used,
        bytes: blocks.sum::<u64>() * BLOCK_BYTES,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;
    use crate::template::{CachedTemplate, Template, TemplateRecipe};
    use crate::{prune_templates, template, templates};

    const KIND: ArtefactKind = ArtefactKind::Template;
    const HOUR: Duration = Duration::from_secs(3600);

    fn new_cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cache = Cache::open(&directory.path().join("cache")).expect("opened");
        (directory, cache)
    }

    fn recipe(image: &str) -> TemplateRecipe {
        TemplateRecipe::from([("image".to_owned(), image.to_owned())])
    }

    /// Makes or finds the template of an image; says whether it was made.
    fn obtain(cache: &Cache, image: &str) -> (Template, bool) {
        let mut is_made = false;
        let files = template(cache, &recipe(image), &NoProgress, |files| {
            is_made = true;
            for path in [&files.memory, &files.state, &files.disk] {
                fs::write(path, vec![1; 64 * 1024]).expect("written");
            }
            Ok::<_, CacheError>(())
        });
        (files.expect("obtained"), is_made)
    }

    fn age(files: &Template, by: Duration) {
        let manifest = files.memory.with_file_name(MANIFEST_FILE);
        let file = File::open(manifest).expect("opened");
        file.set_modified(SystemTime::now() - by).expect("set");
    }

    fn images(listed: &[CachedTemplate]) -> Vec<&str> {
        listed
            .iter()
            .map(|one| one.recipe["image"].as_str())
            .collect()
    }

    fn left(cache: &Cache) -> usize {
        let names = ["staging", "template"].map(|name| cache.root().join(name));
        names
            .iter()
            .map(|path| fs::read_dir(path).expect("read").count())
            .sum()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_fresh_stays() {
        let (_directory, cache) = new_cache();
        for (image, hours) in [("one", 3), ("two", 2), ("three", 1)] {
            age(&obtain(&cache, image).0, HOUR * hours);
        }
        // It is used, and so the youngest.
        assert!(!obtain(&cache, "one").1);
        let listed = templates(&cache).expect("listed");
        assert_eq!(images(&listed), ["one", "three", "two"]);
        let each = listed[0].bytes;
        assert!(each >= 3 * 64 * 1024, "{each}");

        cache.evict(KIND, each * 3, HOUR / 2).expect("enough room");
        assert_eq!(templates(&cache).expect("listed").len(), 3);
        cache.evict(KIND, each * 2, HOUR / 2).expect("evicted");
        assert_eq!(
            images(&templates(&cache).expect("listed")),
            ["one", "three"]
        );
        cache.evict(KIND, 0, HOUR / 2).expect("evicted");
        assert_eq!(images(&templates(&cache).expect("listed")), ["one"]);
        assert_eq!(left(&cache), 1);
        assert!(obtain(&cache, "two").1, "it is made again");
    }

    #[test]
    fn pruning_removes_also_what_is_damaged_and_tells_what_it_removed() {
        let (_directory, cache) = new_cache();
        age(&obtain(&cache, "old").0, HOUR);
        let (damaged, _) = obtain(&cache, "damaged");
        fs::write(damaged.memory.with_file_name(MANIFEST_FILE), b"{").expect("written");
        age(&damaged, HOUR * 2);
        obtain(&cache, "new");

        let removed = prune_templates(&cache, HOUR / 2).expect("pruned");
        assert_eq!(removed.len(), 2);
        assert!(
            removed.iter().any(|one| one.recipe.is_empty()),
            "{removed:?}"
        );
        assert_eq!(images(&templates(&cache).expect("listed")), ["new"]);
        assert_eq!(
            prune_templates(&cache, Duration::ZERO)
                .expect("pruned")
                .len(),
            1
        );
        assert_eq!(left(&cache), 0);
    }

    #[test]
    fn entry_that_another_process_removed_is_nobodys_failure() {
        let (_directory, cache) = new_cache();
        obtain(&cache, "one");
        let entries = cache.entries(KIND).expect("listed");
        assert!(cache.remove(&entries[0], Duration::ZERO).expect("removed"));
        assert!(
            !cache
                .remove(&entries[0], Duration::ZERO)
                .expect("nothing to do")
        );
    }
}
