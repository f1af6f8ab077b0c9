//! Preparing an artefact: the lock, the staging directory, publication.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::manifest::{FileRecord, MANIFEST_FILE, Manifest, Stamp};
use crate::cache::{
    Artefact, ArtefactKind, Cache, CacheError, Depth, Key, available_bytes, io_error,
    make_directory, set_mode, unix_ms,
};
use crate::progress::{Progress, step};

/// A place to prepare one artefact in. It disappears with this value, published or not.
#[derive(Debug)]
pub(crate) struct Staging {
    directory: PathBuf,
}

/// What the builder of an artefact says about it: what it was made of.
pub(crate) type Inputs = BTreeMap<String, String>;

/// The right to prepare one key. It ends with this value, or with the process.
struct KeyLock {
    _file: File,
}

impl Cache {
    /// Returns the newest artefact of `key` that satisfies `accept`, or the one that `build`
    /// leaves in the staging directory's output.
    pub(crate) fn obtain<E: From<CacheError>>(
        &self,
        key: &Key,
        progress: &dyn Progress,
        accept: impl Fn(&Artefact) -> bool,
        build: impl FnOnce(&Staging) -> Result<Inputs, E>,
    ) -> Result<Artefact, E> {
        if let Some(artefact) = self.find(key, progress, &accept)? {
            return Ok(artefact);
        }
        let lock = self.lock(key, progress)?;
        // Whoever held the lock before us has probably done our work.
        if let Some(artefact) = self.find(key, progress, &accept)? {
            return Ok(artefact);
        }
        self.build_locked(&lock, key, build)
    }

    /// Prepares `key` anew; an artefact that exists already stays as it is.
    pub(crate) fn build<E: From<CacheError>>(
        &self,
        key: &Key,
        progress: &dyn Progress,
        build: impl FnOnce(&Staging) -> Result<Inputs, E>,
    ) -> Result<Artefact, E> {
        let lock = self.lock(key, progress)?;
        self.build_locked(&lock, key, build)
    }

    /// Fails when the cache's file system has less than `needed_bytes` left.
    pub(crate) fn require_space(&self, needed_bytes: u64) -> Result<(), CacheError> {
        match available_bytes(&self.root) {
            Some(available) if available < needed_bytes => Err(CacheError::Full {
                path: self.root.clone(),
                needed_bytes: Some(needed_bytes),
                available_bytes: Some(available),
                source: None,
            }),
            _ => Ok(()),
        }
    }

    fn build_locked<E: From<CacheError>>(
        &self,
        _lock: &KeyLock,
        key: &Key,
        build: impl FnOnce(&Staging) -> Result<Inputs, E>,
    ) -> Result<Artefact, E> {
        self.sweep(key);
        let staging = Staging::create(&self.root, key)?;
        let inputs = build(&staging)?;
        Ok(self.publish(key, &staging, inputs)?)
    }

    fn lock(&self, key: &Key, progress: &dyn Progress) -> Result<KeyLock, CacheError> {
        let path = self.root.join("locks").join(key.lock_name());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(|source| io_error("open", &path, source))?;
        let error = |source| io_error("lock", &path, source);
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("waiting for another process to prepare {}", key.lock_name());
                step(progress, &what, None, || file.lock()).map_err(error)?;
            }
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
        Ok(KeyLock { _file: file })
    }

    /// Removes what killed builders left: staging directories whose lock nobody else holds.
    ///
    /// Preconditions: the caller holds the lock of `own`. A leftover that resists is not worth
    /// failing for; it costs space, and the next builder tries again.
    fn sweep(&self, own: &Key) {
        let Ok(entries) = fs::read_dir(self.root.join("staging")) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((lock_name, _)) = name.to_str().and_then(|name| name.rsplit_once('.')) else {
                continue;
            };
            let mut lock = None;
            if lock_name != own.lock_name() {
                let path = self.root.join("locks").join(lock_name);
                lock = OpenOptions::new().write(true).open(path).ok();
                if lock.as_ref().is_some_and(|file| file.try_lock().is_err()) {
                    continue;
                }
            }
            let _ = fs::remove_dir_all(entry.path());
            drop(lock);
        }
    }

    fn publish(
        &self,
        key: &Key,
        staging: &Staging,
        inputs: Inputs,
    ) -> Result<Artefact, CacheError> {
        let output = staging.output();
        let mut files = Vec::new();
        for name in file_names(&output)? {
            files.push(record_file(&output, key.kind, name)?);
        }
        let manifest = Manifest::new(key.kind, &key.name, unix_ms(), inputs, files);
        write_manifest(&output, &manifest)?;
        let parent = self.root.join(key.kind.directory());
        let directory = parent.join(format!(
            "{}.{}",
            key.name,
            manifest.content_digest().short()
        ));
        move_into_place(&output, &directory, &manifest)?;
        sync_directory(&parent)?;
        Ok(Artefact {
            directory,
            manifest,
        })
    }
}

impl Staging {
    fn create(root: &Path, key: &Key) -> Result<Self, CacheError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}-{count}-{}", std::process::id(), unix_ms());
        let directory = root
            .join("staging")
            .join(format!("{}.{unique}", key.lock_name()));
        let staging = Self { directory };
        make_directory(&staging.output())?;
        make_directory(&staging.work())?;
        Ok(staging)
    }

    /// Returns the directory whose files become the artefact. Flat: files only.
    pub(crate) fn output(&self) -> PathBuf {
        self.directory.join("output")
    }

    /// Returns the directory for everything that does not become part of the artefact.
    pub(crate) fn work(&self) -> PathBuf {
        self.directory.join("work")
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next builder.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn file_names(directory: &Path) -> Result<Vec<String>, CacheError> {
    let error = |source| io_error("list", directory, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        names.push(
            name.into_string()
                .expect("builders name their files in ASCII"),
        );
    }
    names.sort();
    Ok(names)
}

/// Makes a finished file read-only and durable, and records what it looks like.
fn record_file(
    directory: &Path,
    kind: ArtefactKind,
    name: String,
) -> Result<FileRecord, CacheError> {
    let path = directory.join(&name);
    let error = |action, source| io_error(action, &path, source);
    set_mode(&path, kind.mode()).map_err(|source| error("protect", source))?;
    let file = File::open(&path).map_err(|source| error("open", source))?;
    file.sync_all().map_err(|source| error("sync", source))?;
    let sha256 = kind
        .digest_of(&path)
        .map_err(|source| error("read", source))?;
    let metadata = file.metadata().map_err(|source| error("examine", source))?;
    Ok(FileRecord {
        name,
        size_bytes: metadata.len(),
        sha256,
        stamp: Stamp::of(&metadata),
    })
}

/// Writes the manifest of the artefact in `directory`, replacing an older one atomically.
pub(super) fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<(), CacheError> {
    let temporary = directory.join(format!(".manifest-{}-{}", std::process::id(), unix_ms()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(&manifest.to_json())?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(MANIFEST_FILE))
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        io_error("write the manifest in", directory, source)
    })?;
    sync_directory(directory)
}

fn move_into_place(output: &Path, directory: &Path, manifest: &Manifest) -> Result<(), CacheError> {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty};
    let publish_error = |source| io_error("publish", directory, source);
    match fs::rename(output, directory) {
        Err(error) if matches!(error.kind(), AlreadyExists | DirectoryNotEmpty) => {}
        result => return result.map_err(publish_error),
    }
    // The same content was published before. It is kept if it is sound, because sandboxes may
    // be using it; a damaged one makes room.
    if let Ok(Some(mut existing)) = Artefact::load(directory, Depth::Content) {
        existing.manifest.published_unix_ms = manifest.published_unix_ms;
        existing.manifest.inputs.clone_from(&manifest.inputs);
        return write_manifest(directory, &existing.manifest);
    }
    fs::remove_dir_all(directory).map_err(publish_error)?;
    fs::rename(output, directory).map_err(publish_error)
}

fn sync_directory(path: &Path) -> Result<(), CacheError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|source| io_error("sync", path, source))
}
