//! The files of a log that is written while it is read.
//!
//! Following a log means waiting for the kernel to tell of changes in the sandbox's directory
//! (inotify(7)): new output, a log that begins anew, another state, the end of the directory.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::store::{Store, StoreError};
use crate::{ErrorKind, Sandbox, SandboxId, sys};

/// Most that is read of a log at once while it is followed.
const PIECE_BYTES: usize = 64 * 1024;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file cannot be read.
    #[error("read the log")]
    Read(#[from] io::Error),
    /// It is not known whether more will come.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LogError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(_) => ErrorKind::Host,
            Self::Store(error) => error.kind(),
        }
    }
}

/// A log of a sandbox as far as it was read.
#[derive(Debug)]
pub struct LogFiles {
    store: Store,
    id: SandboxId,
    changes: Changes,
    path: PathBuf,
    /// The newest file of the log, once there is one.
    file: Option<File>,
}

impl LogFiles {
    fn read(store: &Store, id: &SandboxId, paths: &[PathBuf]) -> Result<(Vec<u8>, Self), LogError> {
        let mut log = Self {
            store: store.clone(),
            id: id.clone(),
            // Watched before it is read: what comes in between is told of.
            changes: Changes::of(store.existing(id)?.path())?,
            path: PathBuf::new(),
            file: None,
        };
        let mut content = Vec::new();
        for path in paths {
            log.path.clone_from(path);
            log.file = open_if_there(path)?;
            if let Some(file) = &mut log.file {
                file.read_to_end(&mut content)?;
            }
        }
        Ok((content, log))
    }

    /// Waits for more, and returns it; nothing when all is read and the sandbox has ended.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        loop {
            // Looked at before the files: what it wrote until its end is in them.
            let has_ended = match self.store.info(&self.id) {
                Ok(info) => !info.state.is_active(),
                Err(StoreError::NotFound { .. }) => true,
                Err(error) => return Err(error.into()),
            };
            let piece = self.news()?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
            if has_ended {
                return Ok(None);
            }
            self.changes.next().await?;
        }
    }

    /// Returns some of what has come since the last look.
    fn news(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if self.file.is_none() {
                self.file = open_if_there(&self.path)?;
            }
            let Some(file) = &mut self.file else {
                return Ok(Vec::new());
            };
            let length = file.read(&mut piece)?;
            if length > 0 || is_at(file, &self.path) {
                piece.truncate(length);
                return Ok(piece);
            }
            // Read to its end, and no longer the newest.
            self.file = None;
        }
    }
}

impl Sandbox {
    /// Reads a log of the sandbox from its files, oldest first, and returns it with what can wait
    /// for more.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn read_log(&self, paths: &[PathBuf]) -> Result<(Vec<u8>, LogFiles), LogError> {
        LogFiles::read(&self.access().store, self.id(), paths)
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether `file` is what `path` names, or nothing else is.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => true,
    }
}

/// What the kernel tells of a directory.
#[derive(Debug)]
struct Changes {
    queue: AsyncFd<OwnedFd>,
}

impl Changes {
    fn of(directory: &Path) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let watched = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        inotify::add_watch(&queue, directory, watched)?;
        Ok(Self {
            queue: sys::watch(queue)?,
        })
    }

    /// Waits until something has changed. What it was, a look at the directory tells.
    async fn next(&mut self) -> io::Result<()> {
        /// Room for some events of the longest name (inotify(7)).
        const EVENTS_BYTES: usize = 4096;

        loop {
            let mut ready = self.queue.readable().await?;
            let read = ready.try_io(|queue| {
                let _length = rustix::io::read(queue, &mut [0; EVENTS_BYTES])?;
                Ok(())
            });
            if let Ok(outcome) = read {
                return outcome;
            }
        }
    }
}
