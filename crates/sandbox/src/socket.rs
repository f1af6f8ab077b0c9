//! The Unix socket of a supervisor: where it is, and how it is reached whatever its path's length.
//!
//! A socket's address holds 108 bytes (unix(7)), and a data directory can be deeper than that.
//! So both sides open the sandbox's directory and name the socket through `/proc/self/fd`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use tokio::net::{UnixListener, UnixStream};

use crate::record::SandboxDir;
use crate::store::remove_if_there;

/// Listens for clients of the sandbox in `directory`, whose lock the caller holds.
pub(crate) fn listen(directory: &SandboxDir) -> io::Result<UnixListener> {
    // Left by a supervisor that died: nobody else listens while the lock is held.
    remove_if_there(&directory.socket());
    with_short_path(directory, |path| UnixListener::bind(path))
}

/// Connects to the supervisor of the sandbox in `directory`.
pub(crate) async fn connect(directory: &SandboxDir) -> io::Result<UnixStream> {
    let opened = File::open(directory.path())?;
    UnixStream::connect(short_path(&opened, directory)?).await
}

fn with_short_path<T>(
    directory: &SandboxDir,
    act: impl FnOnce(PathBuf) -> io::Result<T>,
) -> io::Result<T> {
    let opened = File::open(directory.path())?;
    act(short_path(&opened, directory)?)
}

fn short_path(opened: &File, directory: &SandboxDir) -> io::Result<PathBuf> {
    let socket = directory.socket();
    let name = socket.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(name))
}
