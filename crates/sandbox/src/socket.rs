//! The Unix sockets of a supervisor: where they are, and how they are reached whatever their path's length.
//!
//! A socket's address holds 108 bytes (unix(7)), and a data directory can be deeper than that.
//! So both sides open the sandbox's directory and name the socket in it through `/proc/self/fd`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::record::SandboxDir;
use crate::store::remove_if_there;

/// Listens on a socket of the sandbox in `directory`, whose lock the caller holds.
pub(crate) fn listen(directory: &SandboxDir, socket: &Path) -> io::Result<UnixListener> {
    // Left by a supervisor that died: nobody else listens while the lock is held.
    remove_if_there(socket);
    let opened = File::open(directory.path())?;
    UnixListener::bind(short_path(&opened, socket)?)
}

/// Connects to a socket of the sandbox in `directory`.
pub(crate) async fn connect(directory: &SandboxDir, socket: &Path) -> io::Result<UnixStream> {
    let opened = File::open(directory.path())?;
    UnixStream::connect(short_path(&opened, socket)?).await
}

fn short_path(opened: &File, socket: &Path) -> io::Result<PathBuf> {
    let name = socket.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(name))
}
