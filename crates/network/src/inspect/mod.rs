//! What name does a connection show? Decided from the first bytes that the guest's client sends.
//!
//! ```text
//!   guest's first bytes, piece by piece --Inspector--> Shown
//! ```
//!
//! * `client_hello` collects and reads a TLS `ClientHello`,
//! * `first_line` tells HTTP from other text.
//!
//! Nothing is decided by time: whoever holds the bytes back lets the server speak meanwhile, so
//! that a client that waits for its server has all the time it likes.
//!
//! A guest may lie here, and what it wins by a lie is bounded by the address it may reach anyway.
//! So the reading is strict where servers are lenient: what some server could take for TLS or HTTP
//! is never [`Shown::Opaque`].

mod client_hello;
mod first_line;

#[cfg(test)]
mod tests;

use bytes::BytesMut;

pub use client_hello::ClientHello;

use client_hello::HelloReader;
use first_line::read_first_line;

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
    /// Nothing: the client has closed its side without a word.
    Silent,
    /// What some server may take for TLS or HTTP, but is not well formed.
    Malformed(&'static str),
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

    /// Returns what is shown when no more bytes will ever come.
    #[must_use]
    pub fn finish(&self) -> Shown {
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
