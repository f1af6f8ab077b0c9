//! What name does a connection show? Decided from the first bytes that the guest's client sends.
//!
//! ```text
//!   guest's side --peek--> Shown + the bytes read so far --Replayed--> proxy, interceptor or relay
//! ```
//!
//! * `client_hello` collects and reads a TLS `ClientHello`,
//! * `first_line` tells HTTP from other text,
//! * `replay` plays the bytes again that were read to decide.
//!
//! A guest may lie here, and what it wins by a lie is bounded by the address it may reach anyway.
//! So the reading is strict where servers are lenient: what some server could take for TLS or HTTP
//! is never [`Shown::Opaque`].

mod client_hello;
mod first_line;
mod replay;

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};

pub use client_hello::ClientHello;
pub use replay::Replayed;

use client_hello::HelloReader;
use first_line::read_first_line;

/// How long a client may be silent before it is taken for one that waits for its server.
///
/// Clients of SSH, SMTP and the like wait for a greeting, and each of their connections is late by
/// this much. TLS and HTTP clients write as soon as they are connected, on the same machine.
pub const DEFAULT_PATIENCE: Duration = Duration::from_millis(500);

/// Time in which a client that has begun to write must have shown what it speaks.
const DECISION_TIME: Duration = Duration::from_secs(10);

/// Bytes that are read before a decision, at most.
///
/// A `ClientHello` may come in records of one byte (RFC 8446 §5.1 only forbids empty ones), which
/// makes six bytes of each. A usual one of 500 to 2,000 bytes fits even so.
const MAX_FIRST_BYTES: usize = 32 * 1024;

/// What the first bytes of a connection show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// TLS.
    Tls(ClientHello),
    /// HTTP/1.
    Http,
    /// HTTP/2 without TLS, begun with prior knowledge (RFC 9113 §3.3).
    Http2,
    /// Something else, which shows no name.
    Opaque,
    /// Nothing: the client waits for its server to speak first, or has closed its side. What it
    /// sends later must be looked at when it comes, or silence would be a way around this.
    Silent,
    /// What some server may take for TLS or HTTP, but is not well formed.
    Malformed(&'static str),
}

/// What was shown, and the bytes that were read to know it.
#[derive(Clone, Debug)]
pub struct Peeked {
    /// What was shown.
    pub shown: Shown,
    /// What was read; to be played again by [`Replayed`].
    pub first: Bytes,
}

/// Decides from first bytes that come piece by piece.
#[derive(Debug, Default)]
pub struct Inspector {
    hello: Option<HelloReader>,
    /// All bytes so far; at most [`MAX_FIRST_BYTES`] and one read.
    first: BytesMut,
}

impl Inspector {
    /// Takes the next bytes and returns what they show, once that is decided.
    ///
    /// However the bytes are cut into pieces, the answer is the same.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Shown> {
        let was_empty = self.first.is_empty();
        self.first.extend_from_slice(bytes);
        if was_empty && self.first.first().is_some_and(|byte| is_tls_record(*byte)) {
            self.hello = Some(HelloReader::default());
        }
        let room = MAX_FIRST_BYTES.saturating_sub(self.first.len() - bytes.len());
        let shown = match &mut self.hello {
            Some(hello) => hello.push(&bytes[..bytes.len().min(room)]),
            None => read_first_line(&self.first),
        };
        if shown.is_none() && self.first.len() >= MAX_FIRST_BYTES {
            return Some(Shown::Malformed("TLS hello in more than 32 KiB of records"));
        }
        shown
    }

    /// Returns what is shown when no more bytes come in time.
    fn give_up(&self) -> Shown {
        if self.first.is_empty() {
            Shown::Silent
        } else {
            Shown::Malformed("first line or hello is not complete in time")
        }
    }

    /// Returns what is shown when no more bytes will ever come.
    fn finish(&self) -> Shown {
        if self.first.is_empty() {
            Shown::Silent
        } else if self.hello.is_some() {
            Shown::Malformed("TLS hello ends too early")
        } else {
            // No server takes a part of a line for a request.
            Shown::Opaque
        }
    }
}

/// Content types of TLS records (RFC 8446 §5.1), and the first byte of a hello of SSL 2, which
/// OpenSSL still takes from clients.
fn is_tls_record(first_byte: u8) -> bool {
    matches!(first_byte, 20..=24 | 0x80..=0x8f)
}

/// Reads from a client until it is decided what it shows; a client that is silent for `patience`
/// is [`Shown::Silent`].
///
/// # Errors
///
/// When the stream fails.
pub async fn peek(stream: &mut (impl AsyncRead + Unpin), patience: Duration) -> io::Result<Peeked> {
    let mut inspector = Inspector::default();
    let mut piece = BytesMut::with_capacity(4096);
    let mut deadline = Instant::now() + patience;
    let shown = loop {
        piece.clear();
        let Ok(read) = timeout_at(deadline, stream.read_buf(&mut piece)).await else {
            break inspector.give_up();
        };
        if read? == 0 {
            break inspector.finish();
        }
        if inspector.first.is_empty() {
            deadline = Instant::now() + DECISION_TIME;
        }
        if let Some(shown) = inspector.push(&piece) {
            break shown;
        }
    };
    Ok(Peeked {
        shown,
        first: inspector.first.freeze(),
    })
}
