//! What can go wrong with the cache, and telling a full disk from everything else.

use std::io;
use std::path::{Path, PathBuf};

use crate::cache::manifest::ManifestError;
use crate::digest::Digest;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A step on a path failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The step, in the infinitive.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system is full, or the user's quota or file size limit is reached.
    #[error("no space left for {}{}{}", path.display(),
        needed_bytes.map_or(String::new(), |bytes| format!(", {} MiB needed", bytes >> 20)),
        available_bytes.map_or(String::new(), |bytes| format!(", {} MiB available", bytes >> 20)))]
    Full {
        /// What was being written.
        path: PathBuf,
        /// What the step needs, where that is known.
        needed_bytes: Option<u64>,
        /// What the file system has, where it says so.
        available_bytes: Option<u64>,
        /// What the system said, unless the step was not even begun.
        source: Option<io::Error>,
    },
    /// Others can write to the cache's directory, so its content proves nothing.
    #[error("{} is not private to its owner (mode {mode:04o}, owner {owner})", root.display())]
    NotPrivate {
        /// The directory.
        root: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its owner's numeric id.
        owner: u32,
    },
    /// An artefact does not match its manifest, and it cannot be set aside either.
    #[error("{} is damaged and cannot be set aside", path.display())]
    Corrupted {
        /// The artefact's directory.
        path: PathBuf,
        /// What does not match.
        source: Corruption,
    },
}

/// How an artefact differs from its manifest.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// The manifest itself is not usable.
    #[error("its manifest is not usable")]
    Manifest(#[from] ManifestError),
    /// A file cannot be read.
    #[error("its file {name} cannot be read")]
    Unreadable {
        /// The file's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file has another size.
    #[error("its file {name} has {found} bytes instead of {expected}")]
    Size {
        /// The file's name.
        name: String,
        /// Bytes at publication.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// A file has other content.
    #[error("its file {name} has other content than when it was made")]
    Content {
        /// The file's name.
        name: String,
        /// Digest at publication.
        expected: Digest,
        /// Digest now.
        found: Digest,
    },
}

/// Names the step and the path of `source`, and tells a full disk from everything else.
pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> CacheError {
    if is_full(&source) {
        let available_bytes = available_bytes(path);
        let (path, source) = (path.to_owned(), Some(source));
        return CacheError::Full {
            path,
            needed_bytes: None,
            available_bytes,
            source,
        };
    }
    CacheError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Says whether `error` means that a limit on stored bytes is reached: ENOSPC, EDQUOT, EFBIG.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Returns what the file system of `path`, or of its nearest existing parent, has left for us.
pub(crate) fn available_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}
