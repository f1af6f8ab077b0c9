//! Reads a file or directory tree as a tar archive, as a stream: no more of it is in memory than
//! two frames.
//!
//! Kept are modes, owners, modification times, symbolic links, FIFOs and devices. Skipped are
//! sockets, what disappears meanwhile, and the directories of the kernel's pseudo file systems.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use rustix::fs::FsWord;
use serde_bytes::ByteBuf;
use smolvm_protocol::{Frame, FrameKind, MAX_DATA_BYTES};
use tar::{Builder, EntryType, Header};

use super::path::{PERMISSION_BITS, absolute};
use super::read_file::open_regular;
use crate::conversation::{Conversation, Failure, FrameSender};
use crate::refusal;

/// File systems without files of the user's: proc, sysfs, cgroup2, devpts (linux/magic.h).
const PSEUDO_FILE_SYSTEMS: [FsWord; 4] = [0x9fa0, 0x6265_6572, 0x6367_7270, 0x1cd1];

/// Longest file of a pseudo file system, which is held in memory: its size is not known before.
const MAX_PSEUDO_FILE_BYTES: u64 = 16 * 1024 * 1024;

pub(super) async fn run(host: &mut Conversation, path: ByteBuf) -> Result<(), Failure> {
    let path = absolute(path)?;
    let name = match path.file_name() {
        Some(name) => PathBuf::from(name),
        None if path.parent().is_none() => PathBuf::from("."),
        None => return Err(refusal::invalid("the path must not end with `..`").into()),
    };
    host.send_produced(move |sender| {
        send_archive(&path, name, sender).map_err(|(path, error)| refusal::at_path(&path, &error))
    })
    .await
}

fn send_archive(
    root: &Path,
    name: PathBuf,
    sender: &FrameSender,
) -> Result<(), (PathBuf, io::Error)> {
    let mut archive = Builder::new(FrameWriter {
        sender,
        buffer: BytesMut::new(),
    });
    let mut waiting = vec![(root.to_owned(), name)];
    while let Some((path, name)) = waiting.pop() {
        match append(&mut archive, &path, &name) {
            Ok(children) => waiting.extend(
                children
                    .into_iter()
                    .map(|child| (path.join(&child), name.join(&child))),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path != root => {}
            Err(error) => return Err((path, error)),
        }
    }
    let finish = || {
        archive.into_inner()?.flush()?;
        sender.send(Frame::end())
    };
    finish().map_err(|error| (root.to_owned(), error))
}

/// Appends one file and returns the names of its children.
fn append<W: Write>(
    archive: &mut Builder<W>,
    path: &Path,
    name: &Path,
) -> io::Result<Vec<OsString>> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let mut header = header_of(&metadata);
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        archive.append_data(&mut header, name, io::empty())?;
        return children_of(path);
    }
    if kind.is_file() {
        let file = open_regular(path)?;
        if is_pseudo(&file)? {
            let content = whole(file)?;
            header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
            archive.append_data(&mut header, name, content.as_slice())?;
            return Ok(Vec::new());
        }
        let size = file.metadata()?.size();
        header.set_size(size);
        // A file that changes its size meanwhile must not shift what follows it.
        let content = file.chain(io::repeat(0)).take(size);
        archive.append_data(&mut header, name, content)?;
    } else if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        archive.append_link(&mut header, name, fs::read_link(path)?)?;
    } else if let Some(entry_type) = special_entry_type(kind) {
        header.set_entry_type(entry_type);
        header.set_device_major(rustix::fs::major(metadata.rdev()))?;
        header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
        archive.append_data(&mut header, name, io::empty())?;
    }
    Ok(Vec::new())
}

fn header_of(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(0);
    header.set_mode(metadata.mode() & PERMISSION_BITS);
    header.set_uid(u64::from(metadata.uid()));
    header.set_gid(u64::from(metadata.gid()));
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header
}

fn special_entry_type(kind: fs::FileType) -> Option<EntryType> {
    if kind.is_fifo() {
        Some(EntryType::Fifo)
    } else if kind.is_char_device() {
        Some(EntryType::Char)
    } else if kind.is_block_device() {
        Some(EntryType::Block)
    } else {
        None
    }
}

fn children_of(directory: &Path) -> io::Result<Vec<OsString>> {
    if is_pseudo(File::open(directory)?)? {
        return Ok(Vec::new());
    }
    let names = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
    names.collect()
}

fn is_pseudo(file: impl AsFd) -> io::Result<bool> {
    let file_system = rustix::fs::fstatfs(file)?.f_type;
    Ok(PSEUDO_FILE_SYSTEMS.contains(&file_system))
}

/// Returns the content of a file that says nothing true of its size.
fn whole(file: File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MAX_PSEUDO_FILE_BYTES + 1)
        .read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length <= MAX_PSEUDO_FILE_BYTES) {
        Ok(content)
    } else {
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// Collects written bytes into frames as large as the protocol has them.
struct FrameWriter<'a> {
    sender: &'a FrameSender,
    buffer: BytesMut,
}

impl Write for FrameWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_DATA_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == MAX_DATA_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let payload: Bytes = self.buffer.split().freeze();
        self.sender.send(Frame::data(FrameKind::Output, payload))
    }
}
