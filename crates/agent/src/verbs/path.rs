//! Paths as requests carry them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde_bytes::ByteBuf;
use smolvm_protocol::message::Refusal;

use crate::refusal;

/// All permission bits there are (inode(7)).
pub(super) const PERMISSION_BITS: u32 = 0o7777;

/// Returns the absolute path that a request carries.
pub(crate) fn absolute(bytes: ByteBuf) -> Result<PathBuf, Refusal> {
    if bytes.contains(&0) {
        return Err(refusal::invalid("a path cannot contain a NUL byte"));
    }
    if bytes.first() != Some(&b'/') {
        return Err(refusal::invalid("a path must be absolute"));
    }
    Ok(PathBuf::from(OsString::from_vec(bytes.into_vec())))
}

/// Returns the permission bits that a request carries.
pub(super) fn permissions(mode: u32) -> Result<u32, Refusal> {
    if mode & !PERMISSION_BITS != 0 {
        return Err(refusal::invalid("permission bits must be at most 0o7777"));
    }
    Ok(mode)
}
