//! Copying files and directory trees between host and guest, with the rules of cp(1): a
//! destination that is a directory receives the source under its own name; another destination
//! becomes the source's copy.
//!
//! What comes from the guest is hostile: entries are unpacked only below the destination, never
//! through a link out of it, and only files, directories and symbolic links are made.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use smolvm_protocol::MAX_DATA_BYTES;
use smolvm_protocol::message::{FileKind, RefusalCode};
use tokio::sync::mpsc;

use crate::files::FileReader;
use crate::sandbox::AccessError;
use crate::{ErrorKind, Sandbox};

/// Pieces of an archive under way between the thread that makes or unpacks it and the stream.
const PIECE_QUEUE: usize = 4;

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
            Self::NoName { .. } | Self::NotAbsolute { .. } => ErrorKind::InvalidInput,
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
        let reader = self.read_tree(source.as_os_str().as_bytes()).await?;
        if destination.is_dir() {
            return unpack(reader, destination).await;
        }
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let staging = tempfile::Builder::new()
            .prefix(".smolvm-copy-")
            .tempdir_in(parent)
            .map_err(|source| host_error("create a directory in", parent, source))?;
        let copied = unpack(reader, staging.path()).await?;
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
    archive.follow_symlinks(false);
    // A source that is named is followed, as cp(1) follows it; links inside it are kept.
    let metadata = fs::metadata(source)?;
    if metadata.is_dir() {
        archive.append_dir_all(name, source)?;
    } else if metadata.is_file() {
        archive.append_file(name, &mut File::open(source)?)?;
    } else {
        let message = "it is neither a file nor a directory";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    archive.into_inner()?.flush()?;
    Ok(file_bytes(source, &metadata))
}

/// Returns the bytes of the regular files in a tree, as far as they can be seen.
fn file_bytes(path: &Path, metadata: &fs::Metadata) -> u64 {
    if metadata.is_file() {
        return metadata.len();
    }
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let inside = entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    inside
        .filter(|(_, metadata)| metadata.is_file() || metadata.is_dir())
        .map(|(path, metadata)| file_bytes(&path, &metadata))
        .sum()
}

/// Unpacks the archive of `reader` into `destination`. Returns the bytes of its files.
async fn unpack(mut reader: FileReader, destination: &Path) -> Result<u64, CopyError> {
    let (pieces, queue) = mpsc::channel(PIECE_QUEUE);
    let into = destination.to_owned();
    let unpacker = tokio::task::spawn_blocking(move || {
        unpack_entries(
            PieceReader {
                queue,
                piece: Bytes::new(),
            },
            &into,
        )
    });
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

fn unpack_entries(archive: impl Read, destination: &Path) -> io::Result<u64> {
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_ownerships(false);
    archive.set_overwrite(true);
    let mut copied = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_dir() || kind.is_symlink() {
            copied += entry.size();
            // unpack_in refuses `..`, absolute paths, and parents that lead out of the directory.
            if !entry.unpack_in(destination)? {
                let name = OsString::from_vec(entry.path_bytes().into_owned());
                tracing::warn!(name = %name.display(), "entry outside its tree left out");
            }
        }
    }
    Ok(copied)
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

/// Reads what comes on a channel.
struct PieceReader {
    queue: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.queue.blocking_recv().unwrap_or_default();
        }
        let piece = self.piece.split_to(self.piece.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
