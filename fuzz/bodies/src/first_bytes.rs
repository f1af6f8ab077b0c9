//! The first bytes of a connection, through [`Inspector`].
//!
//! However they are cut, the answer is the same; what begins as a handshake of TLS, and what rustls
//! takes for a hello, is never opaque; and the hello's name is the one that rustls sees.

use rustls::server::Acceptor;
use smolvm_network::{Inspector, Name, Shown};

use crate::seeds;

/// Type and major version of a handshake's record (RFC 8446 §5.1).
const BEGUN_TLS: &[u8] = &[22, 3];

/// Reads the input at once, byte by byte, and in pieces of as many bytes as its first byte says.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else {
        return;
    };
    let shown = shown(bytes, bytes.len().max(1));
    for piece in [1, usize::from(piece).max(1)] {
        assert_eq!(self::shown(bytes, piece), shown, "in pieces of {piece}");
    }
    let is_opaque = shown == Shown::Opaque;
    assert!(
        !(is_opaque && bytes.starts_with(BEGUN_TLS)),
        "a TLS record is opaque"
    );
    let Some(name) = name_that_rustls_sees(bytes) else {
        return;
    };
    match shown {
        Shown::Malformed(_) => {}
        Shown::Tls(hello) => assert!(
            name.is_none() || hello.name == name,
            "rustls sees {name:?} in {hello:?}"
        ),
        other => panic!("rustls takes {other:?} for a hello"),
    }
}

/// Returns what the bytes show when they come in pieces of this length.
fn shown(bytes: &[u8], piece: usize) -> Shown {
    let mut inspector = Inspector::default();
    bytes
        .chunks(piece)
        .find_map(|piece| inspector.push(piece))
        .unwrap_or_else(|| inspector.finish())
}

/// Returns the name in a hello that rustls would answer.
fn name_that_rustls_sees(bytes: &[u8]) -> Option<Option<Name>> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let name = accepted.client_hello().server_name().map(Name::from_ascii);
            return Some(name.and_then(Result::ok));
        }
    }
    None
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let hello = seeds::client_hello("api.example.com");
    let (_, message) = hello.split_at(5);
    let records: Vec<u8> = message.chunks(40).flat_map(seeds::record).collect();
    [
        &hello[..],
        &records,
        b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        b"\n\tBREW /pot HTTP/1.1\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10",
    ]
    .into_iter()
    .map(|bytes| [&[7], bytes].concat())
    .collect()
}
