//! Lists a directory.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use serde_bytes::ByteBuf;
use smolvm_protocol::message::Event;

use super::path::absolute;
use super::stat::attributes;
use crate::conversation::{Conversation, Failure, FrameSender};
use crate::refusal;

pub(super) async fn run(host: &mut Conversation, path: ByteBuf) -> Result<(), Failure> {
    let path = absolute(path)?;
    host.send_produced(move |sender| {
        send_entries(&path, sender).map_err(|error| refusal::at_path(&path, &error))
    })
    .await
}

fn send_entries(directory: &Path, sender: &FrameSender) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let described = entry
            .metadata()
            .and_then(|metadata| attributes(&metadata, || fs::read_link(entry.path())));
        match described {
            Ok(attributes) => sender.send_event(&Event::Entry {
                name: ByteBuf::from(entry.file_name().into_vec()),
                attributes,
            })?,
            // Somebody removed it since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    sender.send_event(&Event::Done)
}
