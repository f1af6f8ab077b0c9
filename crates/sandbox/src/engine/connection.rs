//! What every VMM is connected by: sockets that nobody else can reach, and its error output.

use std::io;
use std::os::fd::OwnedFd;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;

use crate::text;

/// Returns our end of a socket pair and the VMM's.
pub(super) fn socket_pair() -> io::Result<(std::os::unix::net::UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    Ok((ours, theirs.into()))
}

pub(super) fn asynchronous(stream: std::os::unix::net::UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Lines of a VMM's error output that are kept.
const MAX_LINES: usize = 20;

/// Reads a VMM's error output to its end and returns its last lines, made printable.
pub(super) async fn last_lines(mut stream: impl AsyncRead + Unpin) -> Vec<String> {
    let mut tail = text::Tail::new(MAX_LINES);
    let mut buffer = BytesMut::with_capacity(4096);
    loop {
        buffer.clear();
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => tail.push(&buffer),
        }
    }
    tail.lines()
}
