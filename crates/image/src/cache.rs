//! The cache: one private directory of finished artefacts.
//!
//! ```text
//!  ROOT/                      mode 0700, owned by the user
//!    kernel/KEY.CONTENT/      one artefact: its files (0444) and manifest.json
//!    initramfs/ root-image/ overlay/ template/      likewise (template: 0600)
//!    locks/KIND-KEY           flock(2): who prepares KEY holds it
//!    staging/KIND-KEY.UNIQUE/ work/ scratch, output/ becomes the artefact
//!    set-aside/               what did not match its manifest any more
//!    kernel-choice.json       which kernel the user wants, if any, see `kernel::choice`
//! ```
//!
//! KEY names what was asked for and CONTENT what came out, so two versions of one key live side
//! by side and nothing a sandbox uses is ever replaced under it. The newest one of a key is used.
//!
//! ```text
//!  find ── sound ──────────────────────────────> use
//!   └ missing, or set aside ── lock ── find again ── build in staging ── fsync ── rename ──> use
//! ```
//!
//! Invariants: an artefact directory appears complete and goes whole, by one rename, and its files
//! never change in between; a staging directory belongs to the process that holds the lock of its key, and one
//! whose lock is free is garbage. A lock is held while building and never while waiting for
//! anything else of the cache.

mod build;
mod error;
mod evict;
mod manifest;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub(crate) use build::{Inputs, Staging};
pub use error::{CacheError, Corruption};
pub(crate) use error::{available_bytes, io_error};
pub(crate) use evict::Entry;
pub use manifest::ManifestError;
pub(crate) use manifest::Stamp;
use manifest::{FileRecord, Manifest};

use crate::digest::Digest;
use crate::progress::Progress;

/// Mode of the cache: the files are nobody else's business, and nobody else may plant one.
const ROOT_MODE: u32 = 0o700;

/// The cache of everything guests boot from. Cheap to open and to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What an artefact is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtefactKind {
    /// A kernel and its modules.
    Kernel,
    /// An initial file system with the agent.
    Initramfs,
    /// A read-only root image.
    RootImage,
    /// A formatted, empty overlay disk.
    Overlay,
    /// A machine that has booted, recorded.
    Template,
}

/// Names what is asked for: kind and a word of lower-case letters, digits and hyphens.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    kind: ArtefactKind,
    name: String,
}

/// A finished artefact that has passed the cheap check.
#[derive(Debug)]
pub(crate) struct Artefact {
    directory: PathBuf,
    manifest: Manifest,
}

/// What a full verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// The artefacts whose every byte is as published.
    pub sound: Vec<PathBuf>,
    /// The artefacts that were damaged, and how. They have been set aside.
    pub damaged: Vec<(PathBuf, Corruption)>,
    /// Bytes read.
    pub bytes: u64,
}

/// How much of an artefact is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Stamps; content only where a stamp differs.
    Stamps,
    /// Every byte.
    Content,
}

impl Cache {
    /// Opens the cache in `root`, which is created with mode 0700 when it does not exist.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made, belongs to another user, or others can write to it.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        for directory in ["", "locks", "staging", "set-aside"] {
            make_directory(&root.join(directory))?;
        }
        for kind in ArtefactKind::ALL {
            make_directory(&root.join(kind.directory()))?;
        }
        let metadata = fs::metadata(root).map_err(|source| io_error("examine", root, source))?;
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        if mode & 0o022 != 0 || owner != rustix::process::geteuid().as_raw() {
            return Err(CacheError::NotPrivate {
                root: root.to_owned(),
                mode,
                owner,
            });
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Returns the directory the cache lives in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads every byte of every artefact and sets the damaged ones aside, to be prepared anew
    /// when next needed.
    ///
    /// # Errors
    ///
    /// When the cache itself cannot be read; a damaged artefact is part of the report.
    pub fn verify(&self, progress: &dyn Progress) -> Result<VerifyReport, CacheError> {
        let mut report = VerifyReport::default();
        for kind in ArtefactKind::ALL {
            for directory in self.directories(kind)? {
                match Artefact::load(&directory, Depth::Content) {
                    Ok(None) => {}
                    Ok(Some(artefact)) => {
                        report.bytes += artefact.size_bytes();
                        report.sound.push(directory);
                    }
                    Err(corruption) => {
                        self.set_aside(&directory, &corruption, progress)?;
                        report.damaged.push((directory, corruption));
                    }
                }
            }
        }
        Ok(report)
    }

    /// Returns the newest sound artefact of `key` that satisfies `accept`.
    ///
    /// Damaged ones on the way are set aside with a warning.
    pub(crate) fn find(
        &self,
        key: &Key,
        progress: &dyn Progress,
        accept: impl Fn(&Artefact) -> bool,
    ) -> Result<Option<Artefact>, CacheError> {
        let mut newest: Option<Artefact> = None;
        for artefact in self.sound(key, progress)? {
            let age = |artefact: &Artefact| artefact.manifest.published_unix_ms;
            let is_newest = || {
                newest
                    .as_ref()
                    .is_none_or(|other| age(other) <= age(&artefact))
            };
            if accept(&artefact) && is_newest() {
                newest = Some(artefact);
            }
        }
        Ok(newest)
    }

    /// Returns the sound artefacts of `key`, the newest first.
    pub(crate) fn find_all(
        &self,
        key: &Key,
        progress: &dyn Progress,
    ) -> Result<Vec<Artefact>, CacheError> {
        let mut artefacts = self.sound(key, progress)?;
        // Stable and reversed: of two of one age, the one that `find` prefers is first.
        artefacts.reverse();
        artefacts.sort_by_key(|artefact| std::cmp::Reverse(artefact.manifest.published_unix_ms));
        Ok(artefacts)
    }

    /// Returns the sound artefacts of `key` in the order of their names, and sets the others aside.
    fn sound(&self, key: &Key, progress: &dyn Progress) -> Result<Vec<Artefact>, CacheError> {
        let mut sound = Vec::new();
        let prefix = format!("{}.", key.name);
        for directory in self.directories(key.kind)? {
            let name = directory.file_name().and_then(|name| name.to_str());
            if !name.is_some_and(|name| name.starts_with(&prefix)) {
                continue;
            }
            match Artefact::load(&directory, Depth::Stamps) {
                Ok(Some(artefact)) if artefact.is_for(key) => sound.push(artefact),
                Ok(_) => {}
                Err(corruption) => self.set_aside(&directory, &corruption, progress)?,
            }
        }
        Ok(sound)
    }

    fn directories(&self, kind: ArtefactKind) -> Result<Vec<PathBuf>, CacheError> {
        let parent = self.root.join(kind.directory());
        let error = |source| io_error("list", &parent, source);
        let mut directories = Vec::new();
        for entry in fs::read_dir(&parent).map_err(error)? {
            directories.push(entry.map_err(error)?.path());
        }
        directories.sort();
        Ok(directories)
    }

    /// Moves a damaged artefact out of the way, to be looked at or deleted by the user.
    fn set_aside(
        &self,
        directory: &Path,
        corruption: &Corruption,
        progress: &dyn Progress,
    ) -> Result<(), CacheError> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let target = self
            .root
            .join("set-aside")
            .join(format!("{name}.{}", unix_ms()));
        match fs::rename(directory, &target) {
            Ok(()) => {}
            // Another process noticed first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(io_error("set aside", directory, source)),
        }
        progress.warning(&format!(
            "{} was damaged and is now in {}: {corruption}",
            directory.display(),
            target.display()
        ));
        Ok(())
    }
}

impl ArtefactKind {
    const ALL: [Self; 5] = [
        Self::Kernel,
        Self::Initramfs,
        Self::RootImage,
        Self::Overlay,
        Self::Template,
    ];

    fn directory(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::RootImage => "root-image",
            Self::Overlay => "overlay",
            Self::Template => "template",
        }
    }

    /// Returns the digest that manifests of this kind record for the file `path`.
    fn digest_of(self, path: &Path) -> io::Result<Digest> {
        match self {
            Self::Kernel | Self::Initramfs | Self::RootImage => Digest::of_file(path),
            Self::Overlay | Self::Template => Digest::of_sparse_file(path),
        }
    }

    /// Returns the mode of files of this kind.
    const fn mode(self) -> u32 {
        match self {
            Self::Kernel | Self::Initramfs | Self::RootImage | Self::Overlay => 0o444,
            // QEMU opens the memory for writing also where it has a private view of it. Whether it
            // was written to, the stamps tell.
            Self::Template => 0o600,
        }
    }
}

impl Key {
    /// Preconditions: `name` consists of lower-case letters, digits and hyphens.
    pub(crate) fn new(kind: ArtefactKind, name: String) -> Self {
        debug_assert!(is_key_name(&name), "{name:?} is not a key");
        Self { kind, name }
    }

    fn lock_name(&self) -> String {
        format!("{}-{}", self.kind.directory(), self.name)
    }
}

/// Says whether `name` can be a key: it ends up in file names, before a dot.
pub(crate) fn is_key_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= 100 && name.bytes().all(is_allowed)
}

impl Artefact {
    /// Returns the path of its file `name`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Says whether the manifest lists the file `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.manifest.files.iter().any(|record| record.name == name)
    }

    /// Returns what its builder recorded under `name`, or nothing.
    pub(crate) fn input(&self, name: &str) -> &str {
        self.manifest.inputs.get(name).map_or("", String::as_str)
    }

    /// Returns what its builder recorded.
    pub(crate) const fn inputs(&self) -> &Inputs {
        &self.manifest.inputs
    }

    /// Returns the digest of its content.
    pub(crate) fn digest(&self) -> Digest {
        self.manifest.content_digest()
    }

    /// Returns the digest and the size of its file `name`.
    pub(crate) fn file(&self, name: &str) -> Option<(Digest, u64)> {
        let record = self
            .manifest
            .files
            .iter()
            .find(|record| record.name == name)?;
        Some((record.sha256, record.size_bytes))
    }

    fn is_for(&self, key: &Key) -> bool {
        self.manifest.kind == key.kind && self.manifest.key == key.name
    }

    /// Returns the size of its files together, in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.manifest
            .files
            .iter()
            .map(|record| record.size_bytes)
            .sum()
    }

    /// Loads and checks the artefact in `directory`; `None` is one of another version.
    fn load(directory: &Path, depth: Depth) -> Result<Option<Self>, Corruption> {
        let Some(mut manifest) = Manifest::read(directory)? else {
            return Ok(None);
        };
        let mut has_new_stamps = false;
        for record in &mut manifest.files {
            has_new_stamps |= check_file(directory, manifest.kind, record, depth)?;
        }
        if has_new_stamps {
            // The bytes are right, so only the next check would be slower without this.
            let _ = build::write_manifest(directory, &manifest);
        }
        Ok(Some(Self {
            directory: directory.to_owned(),
            manifest,
        }))
    }
}

/// Checks one file; returns whether its record got a new stamp.
fn check_file(
    directory: &Path,
    kind: ArtefactKind,
    record: &mut FileRecord,
    depth: Depth,
) -> Result<bool, Corruption> {
    let name = || record.name.clone();
    let path = directory.join(&record.name);
    let unreadable = |source| Corruption::Unreadable {
        name: name(),
        source,
    };
    // Not `metadata`: a link that someone planted must not lead out of the directory.
    let metadata = fs::symlink_metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::ErrorKind::InvalidInput.into()));
    }
    let (expected, found) = (record.size_bytes, metadata.len());
    if expected != found {
        return Err(Corruption::Size {
            name: name(),
            expected,
            found,
        });
    }
    let stamp = Stamp::of(&metadata);
    if depth == Depth::Stamps && stamp == record.stamp {
        return Ok(false);
    }
    let found = kind.digest_of(&path).map_err(unreadable)?;
    if found != record.sha256 {
        return Err(Corruption::Content {
            name: name(),
            expected: record.sha256,
            found,
        });
    }
    let is_new = stamp != record.stamp;
    record.stamp = stamp;
    Ok(is_new)
}

fn make_directory(path: &Path) -> Result<(), CacheError> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(ROOT_MODE)
        .create(path);
    made.map_err(|source| io_error("create", path, source))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
