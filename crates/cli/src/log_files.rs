//! The files of a log that is written while it is read.
//!
//! Following a log means waiting for the kernel to tell of changes in the sandbox's directory
//! (inotify(7)): new output, a log that begins anew, another state, the end of the directory.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use smolvm_sandbox::{ErrorKind, Sandbox, StoreError};
use tokio::io::AsyncReadExt as _;

use crate::failure::Failure;

/// Most that is read of a log at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Returns the failure to read a log.
pub(crate) fn read_error(error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Host, format!("read the log: {error}"))
}

/// A log as far as it was read.
pub(crate) struct LogFiles {
    path: PathBuf,
    /// The newest file of the log, once there is one.
    file: Option<File>,
    pub(crate) content: Vec<u8>,
}

impl LogFiles {
    /// Reads the files of a log, oldest first.
    pub(crate) fn read(paths: &[PathBuf]) -> io::Result<Self> {
        let mut log = Self {
            path: PathBuf::new(),
            file: None,
            content: Vec::new(),
        };
        for path in paths {
            log.path.clone_from(path);
            log.file = open_if_there(path)?;
            if let Some(file) = &mut log.file {
                file.read_to_end(&mut log.content)?;
            }
        }
        Ok(log)
    }

    /// Has `show` show what comes until the sandbox has ended.
    pub(crate) async fn follow(
        &mut self,
        sandbox: &Sandbox,
        changes: &mut Changes,
        mut show: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let has_ended = match sandbox.info() {
                Ok(info) => !info.state.is_active(),
                Err(StoreError::NotFound { .. }) => true,
                Err(error) => return Err(error.into()),
            };
            self.show_news(&mut show)
                .map_err(|error| read_error(&error))??;
            if has_ended {
                return Ok(());
            }
            changes.next().await.map_err(|error| read_error(&error))?;
        }
    }

    /// Has what has come since the last look shown.
    fn show_news(
        &mut self,
        show: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> io::Result<Result<(), Failure>> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if self.file.is_none() {
                self.file = open_if_there(&self.path)?;
            }
            let Some(file) = &mut self.file else {
                return Ok(Ok(()));
            };
            let length = file.read(&mut piece)?;
            if length > 0 {
                if let Err(failure) = show(&piece[..length]) {
                    return Ok(Err(failure));
                }
            } else if is_at(file, &self.path) {
                return Ok(Ok(()));
            } else {
                // Read to its end, and no longer the newest.
                self.file = None;
            }
        }
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
pub(crate) struct Changes {
    queue: tokio::fs::File,
}

impl Changes {
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC)?;
        let watched = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        inotify::add_watch(&queue, directory, watched)?;
        Ok(Self {
            queue: File::from(queue).into(),
        })
    }

    /// Waits until something has changed. What it was, a look at the directory tells.
    async fn next(&mut self) -> io::Result<()> {
        /// Room for some events of the longest name (inotify(7)).
        const EVENTS_BYTES: usize = 4096;

        let _length = self.queue.read(&mut [0; EVENTS_BYTES]).await?;
        Ok(())
    }
}
