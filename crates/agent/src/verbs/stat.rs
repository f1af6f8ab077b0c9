//! Describes a file.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_bytes::ByteBuf;
use smolvm_protocol::message::{Attributes, Event, FileKind};

use super::path::{PERMISSION_BITS, absolute};
use crate::conversation::{Conversation, Failure};
use crate::refusal;

pub(super) async fn run(
    host: &mut Conversation,
    path: ByteBuf,
    follow: bool,
) -> Result<(), Failure> {
    let path = absolute(path)?;
    host.send_produced(move |sender| {
        describe(&path, follow)
            .and_then(|attributes| sender.send_event(&Event::Attributes(attributes)))
            .map_err(|error| refusal::at_path(&path, &error))
    })
    .await
}

fn describe(path: &Path, follow: bool) -> io::Result<Attributes> {
    let metadata = if follow {
        fs::metadata(path)?
    } else {
        fs::symlink_metadata(path)?
    };
    attributes(&metadata, || fs::read_link(path))
}

/// Returns the protocol's view of `metadata`; `read_link` is asked for a symbolic link's target.
pub(super) fn attributes(
    metadata: &Metadata,
    read_link: impl FnOnce() -> io::Result<PathBuf>,
) -> io::Result<Attributes> {
    let kind = match metadata.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let target = if kind == FileKind::Symlink {
        Some(ByteBuf::from(read_link()?.into_os_string().into_vec()))
    } else {
        None
    };
    Ok(Attributes {
        kind,
        size: metadata.size(),
        mode: metadata.mode() & PERMISSION_BITS,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_unix_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
        target,
    })
}
