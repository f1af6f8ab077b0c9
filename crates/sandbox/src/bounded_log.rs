//! A log in files of bounded size: it starts anew when it is full, and the one before is kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Size at which a log is put aside as `NAME.1`, in bytes. There are at most two files, so
/// whoever floods one takes about twice this from the host's disk.
pub(crate) const MAX_LOG_BYTES: u64 = 1024 * 1024;

/// The same of a network's log, in bytes: about 30,000 events.
pub(crate) const MAX_NETWORK_LOG_BYTES: u64 = 8 * 1024 * 1024;

/// A file that starts anew when it is full, keeping the one before.
#[derive(Debug)]
pub(crate) struct BoundedLog {
    path: PathBuf,
    max_bytes: u64,
    file: File,
    written: u64,
}

impl BoundedLog {
    /// Starts a log in `path`; what was there is gone.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let file = options().write(true).truncate(true).open(&path)?;
        Ok(Self {
            path,
            max_bytes: MAX_LOG_BYTES,
            file,
            written: 0,
        })
    }

    /// Goes on with the log in `path`, which is put aside when it has `max_bytes`.
    pub(crate) fn append(path: PathBuf, max_bytes: u64) -> io::Result<Self> {
        let file = options().append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self {
            path,
            max_bytes,
            file,
            written,
        })
    }

    /// Writes all of `bytes`. Returns whether they are in a new file.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let is_full = self.written >= self.max_bytes;
        if is_full {
            fs::rename(&self.path, before(&self.path))?;
            *self = Self::append(self.path.clone(), self.max_bytes)?;
        }
        self.file.write_all(bytes)?;
        self.written += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(is_full)
    }

    /// Returns the file that is written to now.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }
}

/// Each write goes whole into one file.
impl io::Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the path of the log that was full.
pub(crate) fn before(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_keeps_the_latest_in_two_bounded_files() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("some.log");
        let mut log = BoundedLog::create(path.clone()).expect("created");
        let line = [b'x'; 1024];
        let fresh = (0..5 * 1024)
            .filter(|_| log.write(&line).expect("written"))
            .count();
        log.write(b"the end").expect("written");

        assert_eq!(fresh, 4);
        let size = |path: &Path| fs::metadata(path).expect("kept").len();
        assert!(size(&path) <= MAX_LOG_BYTES + 1024);
        assert!(size(&before(&path)) <= MAX_LOG_BYTES + 1024);
        assert!(fs::read(&path).expect("kept").ends_with(b"the end"));
    }

    #[test]
    fn log_that_goes_on_counts_what_it_finds() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("some.log");
        let full = vec![b'x'; usize::try_from(MAX_LOG_BYTES).expect("small")];
        fs::write(&path, full).expect("written");
        let mut log = BoundedLog::append(path.clone(), MAX_LOG_BYTES).expect("opened");
        assert!(log.write(b"new").expect("written"));
        assert_eq!(fs::read(&path).expect("kept"), b"new");
    }
}
