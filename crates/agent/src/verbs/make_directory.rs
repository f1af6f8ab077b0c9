//! Makes a directory.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use serde_bytes::ByteBuf;
use smolvm_protocol::message::Event;

use super::path::{absolute, permissions};
use crate::conversation::{Conversation, Failure};
use crate::refusal;

pub(super) async fn run(
    host: &mut Conversation,
    path: ByteBuf,
    mode: u32,
    parents: bool,
) -> Result<(), Failure> {
    let path = absolute(path)?;
    let mode = permissions(mode)?;
    host.send_produced(move |sender| {
        make(&path, mode, parents)
            .and_then(|()| sender.send_event(&Event::Done))
            .map_err(|error| refusal::at_path(&path, &error))
    })
    .await
}

fn make(path: &Path, mode: u32, parents: bool) -> io::Result<()> {
    if parents {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            make_parents(parent)?;
        }
    }
    match DirBuilder::new().mode(mode).create(path) {
        // The kernel took the agent's file mode creation mask off.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        // Somebody else has made it since.
        Err(error) if parents && error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Makes a directory and its parents with the usual permissions.
pub(super) fn make_parents(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}
