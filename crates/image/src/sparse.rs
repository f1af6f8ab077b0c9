//! Copies of sparse files that stay sparse.
//!
//! The cheapest way that works is taken: a reflink (btrfs, XFS, bcachefs: no data moves at all),
//! else the data extents one by one, so that holes stay holes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Mode of a copy: a sandbox's disk is its owner's business.
const COPY_MODE: u32 = 0o600;

/// How a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMethod {
    /// The file system shares the extents of both files until one of them is written.
    Reflink,
    /// The data extents were copied; holes stayed holes.
    Extents,
}

/// Why a sparse copy failed. No partial copy is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Source {
        /// The file to copy.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The copy cannot be created or written. An existing file is never overwritten.
    #[error("cannot write {}", path.display())]
    Destination {
        /// The copy.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Copies `from` to the new file `to`, which gets mode 0600.
///
/// # Errors
///
/// When either file cannot be used, when `to` exists, or when the file system is full; the
/// partial copy is removed then.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<CopyMethod, CopyError> {
    let source_error = |source| CopyError::Source {
        path: from.to_owned(),
        source,
    };
    let destination_error = |source| CopyError::Destination {
        path: to.to_owned(),
        source,
    };
    let source = File::open(from).map_err(source_error)?;
    let length = source.metadata().map_err(source_error)?.len();
    let destination = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(COPY_MODE)
        .open(to)
        .map_err(destination_error)?;
    let result = if ioctl_ficlone(&destination, &source).is_ok() {
        Ok(CopyMethod::Reflink)
    } else {
        copy_extents(&source, &destination, length).map(|()| CopyMethod::Extents)
    };
    result.map_err(|error| {
        // The copy is ours, made a moment ago; a failure to remove it adds nothing to the report.
        let _ = std::fs::remove_file(to);
        match error {
            ExtentError::Read(source) => source_error(source),
            ExtentError::Write(source) => destination_error(source),
        }
    })
}

enum ExtentError {
    Read(io::Error),
    Write(io::Error),
}

fn copy_extents(source: &File, destination: &File, length: u64) -> Result<(), ExtentError> {
    destination.set_len(length).map_err(ExtentError::Write)?;
    let read_error = |errno: Errno| ExtentError::Read(errno.into());
    let mut position = 0;
    while position < length {
        let start = match seek(source, SeekFrom::Data(position)) {
            Ok(start) => start,
            // lseek(2): ENXIO means that only a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(read_error(errno)),
        };
        let end = seek(source, SeekFrom::Hole(start))
            .map_err(read_error)?
            .min(length);
        if end <= start {
            return Ok(());
        }
        seek(source, SeekFrom::Start(start)).map_err(read_error)?;
        seek(destination, SeekFrom::Start(start))
            .map_err(|errno| ExtentError::Write(errno.into()))?;
        // `io::copy` between files uses copy_file_range(2), which stays in the kernel.
        let mut extent = io::Read::take(source, end - start);
        let mut writer = destination;
        let copied = io::copy(&mut extent, &mut writer).map_err(ExtentError::Write)?;
        if copied != end - start {
            return Err(ExtentError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        position = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Larger than any file system's block, so that the hole is a real one.
    const HOLE_BYTES: u64 = 64 << 20;

    #[test]
    fn holes_stay_holes_and_data_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        let mut file = File::create(&from).unwrap();
        file.write_all(b"first").unwrap();
        file.seek(io::SeekFrom::Start(HOLE_BYTES)).unwrap();
        file.write_all(b"last").unwrap();
        file.set_len(3 * HOLE_BYTES).unwrap();

        copy_sparse(&from, &to).unwrap();

        assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
        let copy = std::fs::metadata(&to).unwrap();
        assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
        assert_eq!(copy.mode() & 0o777, COPY_MODE);
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&from, "new").unwrap();
        std::fs::write(&to, "precious").unwrap();
        assert!(matches!(
            copy_sparse(&from, &to),
            Err(CopyError::Destination { .. })
        ));
        assert_eq!(std::fs::read(&to).unwrap(), b"precious");
    }
}
