//! Sockets that this process was started with.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Returns the socket that this process was started with as descriptor `number`; executed programs
/// do not get it.
///
/// # Errors
///
/// When there is no such descriptor, or it is no stream socket.
pub(crate) fn inherited_socket(number: RawFd) -> io::Result<UnixStream> {
    // SAFETY: it is only looked at and copied, here and now; a number that is not open makes the
    // first call fail.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    let kind = rustix::net::sockopt::socket_type(inherited)?;
    if kind != rustix::net::SocketType::STREAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::fcntl_setfd(inherited, rustix::io::FdFlags::CLOEXEC)?;
    Ok(inherited.try_clone_to_owned()?.into())
}
