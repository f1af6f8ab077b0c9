//! Copying files and directory trees between host and guest, with the rules of cp(1): a
//! destination that is a directory receives the source under its own name; another destination
//! becomes the source's copy.
//!
//! What comes from the guest is hostile: entries are unpacked only below the destination, never
//! through a link out of it, and only files, directories and symbolic links are made.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use smolvm_protocol::MAX_DATA_BYTES;
use smolvm_protocol::message::{FileKind, RefusalCode};
use tokio::sync::mpsc;

use crate::access::AccessError;
use crate::files::FileReader;
use crate::{ErrorKind, Sandbox};

/// Pieces of an archive under way between the thread that makes or unpacks it and the stream.
const PIECE_QUEUE: usize = 4;

/// Bytes an archive may have between the content of two files. Linux's longest path and link
/// target are 4 KiB each (limits.h, `PATH_MAX`).
const MAX_HEADER_BYTES: u64 = 1024 * 1024;

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The path on the host cannot be used.
    #[error("{action} {}", path.display())]
    Host {
        /// What was attempted, such as `read`.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The path names no file that could be copied, as `/` or `..` do not.
    #[error("{} has no name to copy it under", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// The path names a FIFO, a device or the like, which cannot be copied.
    #[error("{} is neither a file nor a directory", path.display())]
    Special {
        /// The path.
        path: PathBuf,
    },
    /// The path in the guest is not absolute.
    #[error("{} is not an absolute path in the guest", path.display())]
    NotAbsolute {
        /// The path.
        path: PathBuf,
    },
    /// The guest failed or refused.
    #[error(transparent)]
    Guest(#[from] AccessError),
}

impl CopyError {
    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Host { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Host,
            },
            Self::NoName { .. } | Self::Special { .. } | Self::NotAbsolute { .. } => {
                ErrorKind::InvalidInput
            }
            Self::Guest(error) => error.kind(),
        }
    }
}

impl Sandbox {
    /// Copies a file or directory of the host into the guest. Returns the bytes copied.
    ///
    /// # Errors
    ///
    /// When the source cannot be read or the guest cannot take it; what was copied until then
    /// stays.
    pub async fn copy_in(&self, source: &Path, destination: &Path) -> Result<u64, CopyError> {
        check_absolute(destination)?;
        let metadata = fs::metadata(source).map_err(|error| host_error("read", source, error))?;
        if !metadata.is_file() && !metadata.is_dir() {
            let path = source.to_owned();
            return Err(CopyError::Special { path });
        }
        let (directory, name) = self.place_in_guest(source, destination).await?;
        let mut writer = self.write_tree(directory.as_os_str().as_bytes()).await?;
        let (pieces, mut queue) = mpsc::channel(PIECE_QUEUE);
        let packed = source.to_owned();
        let packer = tokio::task::spawn_blocking(move || pack(&packed, &name, pieces));
        let mut refused = None;
        while let Some(piece) = queue.recv().await {
            if let Err(error) = writer.write(piece).await {
                // The guest's reason; the packer then ends for want of a reader.
                refused = Some(error);
                break;
            }
        }
        drop(queue);
        let packed = packer
            .await
            .expect("packing does not panic and is never cancelled");
        if let Some(error) = refused {
            return Err(error.into());
        }
        let copied = packed.map_err(|source_error| host_error("read", source, source_error))?;
        writer.finish().await?;
        Ok(copied)
    }

    /// Copies a file or directory of the guest to the host. Returns the bytes copied.
    ///
    /// # Errors
    ///
    /// When the guest cannot read the source or the destination cannot be written; what was
    /// copied until then stays.
    pub async fn copy_out(&self, source: &Path, destination: &Path) -> Result<u64, CopyError> {
        check_absolute(source)?;
        let name = name_of(source)?;
        let found = self.stat(source.as_os_str().as_bytes(), true).await?;
        if !matches!(found.kind, FileKind::File | FileKind::Directory) {
            let path = source.to_owned();
            return Err(CopyError::Special { path });
        }
        let reader = self.read_tree(source.as_os_str().as_bytes()).await?;
        if destination.is_dir() {
            return unpack(reader, &name, destination).await;
        }
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let staging = tempfile::Builder::new()
            .prefix(".smolvm-copy-")
            .tempdir_in(parent)
            .map_err(|source| host_error("create a directory in", parent, source))?;
        let copied = unpack(reader, &name, staging.path()).await?;
        fs::rename(staging.path().join(&name), destination)
            .map_err(|source| host_error("write", destination, source))?;
        Ok(copied)
    }

    /// Returns the directory of the guest that receives the copy, and the copy's name there.
    async fn place_in_guest(
        &self,
        source: &Path,
        destination: &Path,
    ) -> Result<(PathBuf, OsString), CopyError> {
        match self.stat(destination.as_os_str().as_bytes(), true).await {
            Ok(attributes) if attributes.kind == FileKind::Directory => {
                Ok((destination.to_owned(), name_of(source)?))
            }
            Ok(_) => beside(destination),
            Err(AccessError::Refused(refusal)) if refusal.code == RefusalCode::NotFound => {
                beside(destination)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn beside(destination: &Path) -> Result<(PathBuf, OsString), CopyError> {
    let name = name_of(destination)?;
    Ok((
        destination
            .parent()
            .unwrap_or_else(|| Path::new("/"))
            .to_owned(),
        name,
    ))
}

fn check_absolute(path: &Path) -> Result<(), CopyError> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(CopyError::NotAbsolute {
            path: path.to_owned(),
        })
    }
}

fn name_of(path: &Path) -> Result<OsString, CopyError> {
    if let Some(name) = path.file_name() {
        return Ok(name.to_owned());
    }
    // `.` and `dir/..` have a name only once they are resolved.
    path.canonicalize()
        .ok()
        .filter(|_| !path.is_absolute())
        .and_then(|resolved| resolved.file_name().map(ToOwned::to_owned))
        .ok_or_else(|| CopyError::NoName {
            path: path.to_owned(),
        })
}

fn host_error(action: &'static str, path: &Path, source: io::Error) -> CopyError {
    CopyError::Host {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Writes an archive of `source` to `pieces`, with `name` in place of the source's own. Returns
/// the bytes of its files.
fn pack(source: &Path, name: &OsString, pieces: mpsc::Sender<Bytes>) -> io::Result<u64> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(
        MAX_DATA_BYTES,
        PieceWriter { pieces },
    ));
    // A source that is named is followed, as cp(1) follows it; links inside it are kept.
    let metadata = fs::metadata(source)?;
    let packed = pack_entry(&mut archive, source, Path::new(name), &metadata)?;
    archive.into_inner()?.flush()?;
    Ok(packed)
}

/// Appends one file, directory or link, and what is in it; other files are left out.
fn pack_entry<W: Write>(
    archive: &mut tar::Builder<W>,
    source: &Path,
    name: &Path,
    metadata: &fs::Metadata,
) -> io::Result<u64> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    if metadata.is_file() {
        // A file that shrinks or grows meanwhile must not shift what comes after it.
        let content = File::open(source)?
            .chain(io::repeat(0))
            .take(metadata.len());
        archive.append_data(&mut header, name, content)?;
        return Ok(metadata.len());
    }
    if metadata.is_symlink() {
        archive.append_link(&mut header, name, fs::read_link(source)?)?;
        return Ok(0);
    }
    if !metadata.is_dir() {
        tracing::warn!(path = %source.display(), "neither file, directory nor link: left out");
        return Ok(0);
    }
    archive.append_data(&mut header, name, io::empty())?;
    let mut packed = 0;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let name = name.join(entry.file_name());
        packed += pack_entry(archive, &entry.path(), &name, &entry.metadata()?)?;
    }
    Ok(packed)
}

/// Unpacks the archive of `reader` into `destination`. Returns the bytes of its files.
async fn unpack(
    mut reader: FileReader,
    name: &OsStr,
    destination: &Path,
) -> Result<u64, CopyError> {
    let (pieces, queue) = mpsc::channel(PIECE_QUEUE);
    let (into, name) = (destination.to_owned(), name.to_owned());
    let unpacker =
        tokio::task::spawn_blocking(move || unpack_entries(PieceReader::new(queue), &name, &into));
    let received = loop {
        match reader.next().await {
            Ok(Some(piece)) => {
                if pieces.send(piece).await.is_err() {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(pieces);
    let unpacked = unpacker
        .await
        .expect("unpacking does not panic and is never cancelled");
    received?;
    unpacked.map_err(|source| host_error("write", destination, source))
}

/// Unpacks the tree `name` of an archive. An archive with anything else in it is refused: what
/// was asked for is all that the guest may write.
fn unpack_entries(reader: PieceReader, name: &OsStr, destination: &Path) -> io::Result<u64> {
    let allowance = Rc::clone(&reader.allowance);
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_ownerships(false);
    archive.set_overwrite(true);
    let mut copied = 0;
    allowance.set(MAX_HEADER_BYTES);
    for entry in archive.entries()? {
        let mut entry = entry?;
        check_root(&entry.path()?, name)?;
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_dir() || kind.is_symlink() {
            copied += entry.size();
            allowance.set(u64::MAX);
            // unpack_in refuses `..`, absolute paths, and parents that lead out of the directory.
            if !entry.unpack_in(destination)? {
                return Err(invalid("an entry leads out of its tree"));
            }
        }
        allowance.set(MAX_HEADER_BYTES);
    }
    Ok(copied)
}

fn check_root(path: &Path, name: &OsStr) -> io::Result<()> {
    let mut components = path.components().filter(|part| *part != Component::CurDir);
    if components.next() == Some(Component::Normal(name)) {
        Ok(())
    } else {
        Err(invalid(
            "the guest sent something else than what was asked for",
        ))
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Sends what is written to it on a channel.
struct PieceWriter {
    pieces: mpsc::Sender<Bytes>,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.pieces
            .blocking_send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what comes on a channel, no more than is allowed.
struct PieceReader {
    queue: mpsc::Receiver<Bytes>,
    piece: Bytes,
    /// Bytes that may still be read. The tar crate reads long names into memory whole, however
    /// long the archive says they are.
    allowance: Rc<Cell<u64>>,
}

impl PieceReader {
    fn new(queue: mpsc::Receiver<Bytes>) -> Self {
        Self {
            queue,
            piece: Bytes::new(),
            allowance: Rc::new(Cell::new(0)),
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.queue.blocking_recv().unwrap_or_default();
        }
        let piece = self.piece.split_to(self.piece.len().min(buffer.len()));
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let left = self.allowance.get().checked_sub(length);
        self.allowance
            .set(left.ok_or_else(|| invalid("a header is longer than any real one"))?);
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unpacks an archive that a guest could send when it is asked for `wanted`.
    fn unpack_from_guest(archive: Vec<u8>, into: &Path) -> io::Result<u64> {
        let (pieces, queue) = mpsc::channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for piece in archive.chunks(MAX_DATA_BYTES) {
                    if pieces.blocking_send(Bytes::copy_from_slice(piece)).is_err() {
                        break;
                    }
                }
            });
            unpack_entries(PieceReader::new(queue), OsStr::new("wanted"), into)
        })
    }

    fn archive_of(path: &str, content: &[u8]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).expect("small"));
        header.set_mode(0o644);
        archive
            .append_data(&mut header, path, content)
            .expect("packed");
        archive.into_inner().expect("packed")
    }

    #[test]
    fn guest_cannot_write_beside_what_was_asked_for() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let profile = directory.path().join(".bashrc");
        fs::write(&profile, "mine").expect("written");
        let refused = unpack_from_guest(archive_of(".bashrc", b"evil"), directory.path());
        assert_eq!(
            refused.expect_err("refused").kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(fs::read(&profile).expect("there"), b"mine");
        let copied = unpack_from_guest(archive_of("wanted", b"good"), directory.path());
        assert_eq!(copied.expect("copied"), 4);
    }

    #[test]
    fn endless_name_is_refused_before_it_fills_the_memory() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_path("././@LongLink").expect("short");
        header.set_size(1 << 40);
        header.set_cksum();
        let mut archive = header.as_bytes().to_vec();
        archive.resize(64 << 20, b'a');
        let directory = tempfile::tempdir().expect("temporary directory");
        let refused = unpack_from_guest(archive, directory.path()).expect_err("refused");
        assert!(
            refused.to_string().contains("longer than any real one"),
            "{refused}"
        );
    }

    #[test]
    fn file_that_grows_while_it_is_packed_does_not_shift_the_next() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let growing = directory.path().join("growing");
        fs::write(&growing, "ten bytes!").expect("written");
        let metadata = fs::metadata(&growing).expect("there");
        fs::write(&growing, "ten bytes! and many more").expect("grown");
        let mut archive = tar::Builder::new(Vec::new());
        let name = Path::new("growing");
        let packed = pack_entry(&mut archive, &growing, name, &metadata).expect("packed");
        let packed_bytes = archive.into_inner().expect("packed");
        assert_eq!(packed, 10);
        let mut unpacked = tar::Archive::new(&packed_bytes[..]);
        let sizes: Vec<u64> = unpacked
            .entries()
            .expect("legal")
            .map(|entry| entry.expect("legal").size())
            .collect();
        assert_eq!(sizes, [10]);
    }
}
