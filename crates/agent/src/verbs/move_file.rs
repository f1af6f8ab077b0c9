//! Gives a file or directory another name.

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_bytes::ByteBuf;
use smolvm_protocol::message::{Event, Refusal, RefusalCode};

use super::path::absolute;
use crate::conversation::{Conversation, Failure};
use crate::refusal;

pub(super) async fn run(
    host: &mut Conversation,
    from: ByteBuf,
    to: ByteBuf,
    replace: bool,
) -> Result<(), Failure> {
    let from = absolute(from)?;
    let to = absolute(to)?;
    host.send_produced(move |sender| {
        let flags = if replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        renameat_with(CWD, &from, CWD, &to, flags)
            .map_err(|errno| refusal_of(errno, &from, &to))?;
        sender
            .send_event(&Event::Done)
            .map_err(|error| refusal::at_path(&to, &error))
    })
    .await
}

/// Says which of the two paths the kernel's error is about (rename(2), "ERRORS").
fn refusal_of(errno: Errno, from: &Path, to: &Path) -> Refusal {
    let words = match errno {
        Errno::XDEV => "is on another file system; copy it instead",
        Errno::INVAL => "is inside what is moved, or cannot be moved",
        Errno::BUSY => "is in use by the system",
        Errno::NOENT if fs::symlink_metadata(from).is_err() => {
            return refusal::at_path(from, &errno.into());
        }
        _ => return refusal::at_path(to, &errno.into()),
    };
    refusal::refused(
        RefusalCode::InvalidInput,
        &format!("{}: {words}", refusal::quoted(to)),
    )
}
