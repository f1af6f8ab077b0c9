//! A file in the making: written beside the one it replaces, so that nobody ever sees half of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that goes away unless it takes the place of another.
pub(crate) struct TemporaryFile {
    path: PathBuf,
    pub(crate) file: File,
    is_placed: bool,
}

impl TemporaryFile {
    /// Makes an empty file in `directory` that only its owner may use.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!(".smolvm-{}-{number}", std::process::id()));
            let result = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            match result {
                Ok(file) => {
                    return Ok(Self {
                        path,
                        file,
                        is_placed: false,
                    });
                }
                // Left over from an agent that was switched off while it wrote.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Becomes `path`; a symbolic link there is replaced itself.
    pub(crate) fn take_place_of(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.is_placed {
            // Nobody is left to tell when even that fails.
            let _ = fs::remove_file(&self.path);
        }
    }
}
