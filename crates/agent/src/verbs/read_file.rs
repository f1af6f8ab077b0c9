//! Reads a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::BytesMut;
use serde_bytes::ByteBuf;
use smolvm_protocol::message::Event;
use smolvm_protocol::{Frame, FrameKind, MAX_DATA_BYTES};

use super::path::absolute;
use super::stat::attributes;
use crate::conversation::{Conversation, Failure, FrameSender};
use crate::refusal;

pub(super) async fn run(host: &mut Conversation, path: ByteBuf) -> Result<(), Failure> {
    let path = absolute(path)?;
    host.send_produced(move |sender| {
        send_file(&path, sender).map_err(|error| refusal::at_path(&path, &error))
    })
    .await
}

fn send_file(path: &Path, sender: &FrameSender) -> io::Result<()> {
    let mut file = open_regular(path)?;
    let metadata = file.metadata()?;
    let attributes = attributes(&metadata, || fs::read_link(path))?;
    sender.send_event(&Event::Attributes(attributes))?;
    send_content(&mut file, sender)?;
    sender.send(Frame::end())
}

/// Opens a regular file for reading, without waiting for the other end of a FIFO or for a
/// device.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    if !kind.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    Ok(file)
}

/// Sends all that is left of `file`, a frame at a time.
fn send_content(file: &mut File, sender: &FrameSender) -> io::Result<()> {
    loop {
        let mut chunk = BytesMut::zeroed(MAX_DATA_BYTES);
        let count = read_full(file, &mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        chunk.truncate(count);
        sender.send(Frame::data(FrameKind::Output, chunk.freeze()))?;
        if count < MAX_DATA_BYTES {
            return Ok(());
        }
    }
}

/// Reads until `buffer` is full or the file ends, and returns how much that was.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
