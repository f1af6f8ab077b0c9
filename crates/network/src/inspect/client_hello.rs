//! Collects and reads a TLS `ClientHello` (RFC 8446 §4.1.2 and §5.1).
//!
//! Written here rather than taken from a crate: the crate for it brings second versions of `syn`,
//! `rand` and `nom`, and rustls does not tell of Encrypted Client Hello. What is needed is small,
//! and a test compares it with rustls.

use super::Shown;
use crate::Name;

/// Length of a record's header: type, version and length.
const RECORD_HEADER_BYTES: usize = 5;

/// Longest fragment of a record (RFC 8446 §5.1).
const MAX_FRAGMENT_BYTES: usize = 1 << 14;

/// Length of a handshake message's header: type and length.
const HANDSHAKE_HEADER_BYTES: usize = 4;

/// Longest `ClientHello` that is read: what one record can carry. RFC 8446 §4 allows 16 MiB, but
/// what clients send is 0.2 to 2 KiB.
const MAX_HELLO_BYTES: usize = MAX_FRAGMENT_BYTES;

/// `ContentType::handshake` (RFC 8446 §5.1).
const CONTENT_HANDSHAKE: u8 = 22;

/// `HandshakeType::client_hello` (RFC 8446 §4).
const HANDSHAKE_CLIENT_HELLO: u8 = 1;

/// `server_name` (RFC 6066 §3).
const EXTENSION_SERVER_NAME: u16 = 0;

/// `application_layer_protocol_negotiation` (RFC 7301 §3.1).
const EXTENSION_ALPN: u16 = 16;

/// `encrypted_client_hello` (RFC 9849 §5).
const EXTENSION_ECH: u16 = 0xfe0d;

/// `encrypted_server_name`, which was there before ECH (draft-ietf-tls-esni-06 §10.1).
const EXTENSION_ESNI: u16 = 0xffce;

/// What a `ClientHello` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server's name.
    pub name: Option<Name>,
    /// Whether there is an Encrypted Client Hello, so that the name may not be the one that is
    /// meant. Some clients send a meaningless one always (RFC 9849 §6.2), which looks the same.
    pub has_ech: bool,
    /// The protocols that the client offers to speak inside, such as `h2`.
    pub alpn: Vec<Vec<u8>>,
}

/// Puts a `ClientHello` together from records that come piece by piece.
#[derive(Debug, Default)]
pub(super) struct HelloReader {
    header: Vec<u8>,
    /// Bytes of the current record's fragment that are still to come.
    fragment_left: usize,
    /// The handshake message so far, with its header.
    message: Vec<u8>,
}

impl HelloReader {
    /// Takes the next bytes and returns what they show, once that is decided.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Option<Shown> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.fragment_left > 0 {
                let length = self.fragment_left.min(bytes.len());
                self.message.extend_from_slice(&bytes[..length]);
                self.fragment_left -= length;
                bytes = &bytes[length..];
                match self.message_length() {
                    Err(reason) => return Some(Shown::Malformed(reason)),
                    // The whole record is waited for, so that a message after the hello in it is
                    // seen however the bytes are cut.
                    Ok(Some(length)) if self.message.len() >= length && self.fragment_left == 0 => {
                        return Some(self.finish(length));
                    }
                    Ok(_) => {}
                }
            } else {
                self.header.push(*first);
                bytes = rest;
                if let Err(shown) = self.read_header() {
                    return Some(shown);
                }
            }
        }
        None
    }

    /// Checks as much of a record's header as there is, and begins its fragment when it is whole.
    fn read_header(&mut self) -> Result<(), Shown> {
        let header = self.header.as_slice();
        if let [0x80..=0x8f, rest @ ..] = header
            && self.message.is_empty()
        {
            return is_not_ssl2(rest);
        }
        if header.get(1).is_some_and(|major| *major != 3) {
            // No version of SSL 3 or TLS has another major number; no server would answer.
            return Err(if self.message.is_empty() {
                Shown::Opaque
            } else {
                Shown::Malformed("record of another protocol within a hello")
            });
        }
        if header.len() >= 2 && header[0] != CONTENT_HANDSHAKE {
            return Err(Shown::Malformed("TLS record before or within the hello"));
        }
        if header.len() < RECORD_HEADER_BYTES {
            return Ok(());
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > MAX_FRAGMENT_BYTES {
            return Err(Shown::Malformed("length of a TLS record"));
        }
        self.fragment_left = length;
        self.header.clear();
        Ok(())
    }

    /// Returns the length of the message with its header, once that is known.
    fn message_length(&self) -> Result<Option<usize>, &'static str> {
        if self
            .message
            .first()
            .is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO)
        {
            return Err("first TLS message is not a hello");
        }
        let [_, high, middle, low, ..] = self.message[..] else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if length > MAX_HELLO_BYTES {
            return Err("TLS hello of more than 16 KiB");
        }
        Ok(Some(HANDSHAKE_HEADER_BYTES + length))
    }

    fn finish(&self, length: usize) -> Shown {
        if self.message.len() > length {
            return Shown::Malformed("TLS message after the hello in its record");
        }
        match read_hello(&self.message[HANDSHAKE_HEADER_BYTES..]) {
            Ok(hello) => Shown::Tls(hello),
            Err(reason) => Shown::Malformed(reason),
        }
    }
}

/// Tells a hello of SSL 2 (RFC 5246 appendix E.2) from other bytes: length, type 1, then version
/// 0.2 or 3.x. It offers TLS and has no name.
fn is_not_ssl2(after_first: &[u8]) -> Result<(), Shown> {
    match after_first {
        [] | [_] | [_, 1] => Ok(()),
        [_, 1, 0 | 3, ..] => Err(Shown::Malformed("hello of SSL 2")),
        _ => Err(Shown::Opaque),
    }
}

/// The rest of a message, or of a part of it.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or("TLS hello ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Takes a vector whose length is in one byte.
    fn vector8(&mut self) -> Result<Cursor<'a>, &'static str> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Cursor)
    }

    /// Takes a vector whose length is in two bytes.
    fn vector16(&mut self) -> Result<Cursor<'a>, &'static str> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Cursor)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads the body of a `ClientHello`.
fn read_hello(body: &[u8]) -> Result<ClientHello, &'static str> {
    let mut body = Cursor(body);
    body.take(2 + 32)?; // legacy_version, random
    body.vector8()?; // legacy_session_id
    body.vector16()?; // cipher_suites
    body.vector8()?; // legacy_compression_methods
    if body.is_empty() {
        // Before TLS 1.3 there need not be extensions.
        return Ok(ClientHello::default());
    }
    let mut extensions = body.vector16()?;
    if !body.is_empty() {
        return Err("bytes after the extensions of a TLS hello");
    }
    let mut hello = ClientHello::default();
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        // RFC 8446 §4.2: at most one of each type. Which of two would be taken is the server's
        // choice.
        if seen.contains(&kind) {
            return Err("TLS extension twice");
        }
        seen.push(kind);
        match kind {
            EXTENSION_SERVER_NAME => hello.name = Some(read_server_name(content)?),
            EXTENSION_ALPN => hello.alpn = read_alpn(content)?,
            EXTENSION_ECH | EXTENSION_ESNI => hello.has_ech = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// Reads the one name of a `ServerNameList` (RFC 6066 §3).
fn read_server_name(mut extension: Cursor<'_>) -> Result<Name, &'static str> {
    let mut names = extension.vector16()?;
    let kind = names.u8()?;
    let name = names.vector16()?;
    if kind != 0 || !names.is_empty() || !extension.is_empty() {
        return Err("TLS hello with another list of names than one host's");
    }
    // RFC 6066 §3: a literal address is not permitted either.
    str::from_utf8(name.0)
        .ok()
        .and_then(|name| Name::from_ascii(name).ok())
        .ok_or("server name in the TLS hello is not a host's name")
}

/// Reads a `ProtocolNameList` (RFC 7301 §3.1).
fn read_alpn(mut extension: Cursor<'_>) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut list = extension.vector16()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        protocols.push(list.vector8()?.0.to_vec());
    }
    if !extension.is_empty() {
        return Err("bytes after the protocols of a TLS hello");
    }
    Ok(protocols)
}
