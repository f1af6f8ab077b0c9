//! Tells HTTP from other protocols by its first line.
//!
//! This is wider than RFC 9112: servers take lines that end in a bare LF, are preceded by empty
//! ones, or have several spaces. Whoever speaks HTTP to such a server must be seen to do so; the
//! proxy then refuses what is not well formed.

use super::Shown;

/// What a client of HTTP/2 sends first (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods after which even a line without a version is HTTP (version 0.9 had none).
const COMMON_METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
];

/// Bytes in which a first word must end for it to be a method. The longest registered method is
/// `UPDATEREDIRECTREF`, of 17.
const MAX_METHOD_BYTES: usize = 64;

/// Longest first line that is read, with what precedes it. Bounds the work for a guest that sends it
/// byte by byte.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// What Python's `str.split`, by which its `http.server` takes a line apart, cuts at.
const SPACES: &[u8] = b" \t\r\x0b\x0c";

/// Returns what a client shows that began with `first`, if that can be told already.
pub(super) fn read_first_line(first: &[u8]) -> Option<Shown> {
    if first.starts_with(HTTP2_PREFACE) {
        return Some(Shown::Http2);
    }
    if HTTP2_PREFACE.starts_with(first) {
        return None;
    }
    let first = &first[..first.len().min(MAX_LINE_BYTES)];
    let shown = read_line(first);
    if shown.is_none() && first.len() == MAX_LINE_BYTES {
        return Some(Shown::Malformed("first line of more than 8 KiB"));
    }
    shown
}

fn read_line(first: &[u8]) -> Option<Shown> {
    let is_space = |byte: &u8| SPACES.contains(byte);
    let begin = first
        .iter()
        .position(|byte| *byte != b'\n' && !is_space(byte))?;
    let line = &first[begin..];
    let Some(method_end) = line.iter().position(|byte| !is_token(*byte)) else {
        return (line.len() > MAX_METHOD_BYTES).then_some(Shown::Opaque);
    };
    let (method, rest) = line.split_at(method_end);
    if method.is_empty() || method.len() > MAX_METHOD_BYTES || !is_space(&rest[0]) {
        return Some(Shown::Opaque);
    }
    if COMMON_METHODS.contains(&method) {
        return Some(Shown::Http);
    }
    let line_end = rest.iter().position(|byte| *byte == b'\n')?;
    let has_version = rest[..line_end]
        .windows(5)
        .any(|window| window.eq_ignore_ascii_case(b"HTTP/"));
    Some(if has_version {
        Shown::Http
    } else {
        Shown::Opaque
    })
}

/// Whether a byte may be part of a method (`tchar` of RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
