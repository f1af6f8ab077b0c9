//! What QEMU says on its error output: kept short, made printable.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::text;

/// Lines that are kept.
const MAX_LINES: usize = 20;

/// Reads `stream` to its end and returns its last lines.
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
