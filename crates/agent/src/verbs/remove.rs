//! Removes a file or directory.

use std::fs;
use std::io;
use std::path::Path;

use serde_bytes::ByteBuf;
use smolvm_protocol::message::Event;

use super::path::absolute;
use crate::conversation::{Conversation, Failure};
use crate::refusal;

pub(super) async fn run(
    host: &mut Conversation,
    path: ByteBuf,
    recursive: bool,
) -> Result<(), Failure> {
    let path = absolute(path)?;
    host.send_produced(move |sender| {
        remove(&path, recursive)
            .and_then(|()| sender.send_event(&Event::Done))
            .map_err(|error| refusal::at_path(&path, &error))
    })
    .await
}

fn remove(path: &Path, recursive: bool) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(path)?.is_dir();
    match (is_directory, recursive) {
        (false, _) => fs::remove_file(path),
        (true, false) => fs::remove_dir(path),
        (true, true) => fs::remove_dir_all(path),
    }
}
