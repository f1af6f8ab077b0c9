//! The unsafe code of this crate: taking over a descriptor that was inherited under a number,
//! and waiting for one in the runtime.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::FdFlags;
use tokio::io::unix::AsyncFd;

use crate::process::LOCK_FD;

/// Takes over the lock file that a supervisor inherits as descriptor [`LOCK_FD`], and keeps it
/// from the processes that the supervisor starts.
///
/// # Errors
///
/// When the descriptor is not open: the program was not started as a supervisor.
///
/// # Safety
///
/// Nothing else in this process may own descriptor [`LOCK_FD`]: call it once, before the program
/// opens anything, in a process that `spawn_supervisor` has started.
pub unsafe fn take_inherited_lock() -> io::Result<File> {
    // SAFETY: the caller promises that the descriptor is nobody else's. Whether it is open at all
    // is checked by the fcntl below, before anything else uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(LOCK_FD) };
    match rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        Ok(()) => Ok(File::from(fd)),
        Err(error) => {
            // A descriptor that is not open must not be closed a second time.
            std::mem::forget(fd);
            Err(error.into())
        }
    }
}

/// Registers `descriptor` with the runtime of this task.
///
/// # Errors
///
/// When the kernel refuses to watch it, as for a regular file.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and names the same file description until it is dropped, and the
    // AsyncFd owns it from here on.
    let registered = unsafe { AsyncFd::register(descriptor) };
    registered.map_err(io::Error::from)
}

/// Closes the descriptor under `inherited` in a process that fork(2) made, leaving `/dev/null`
/// in its place: whatever owns the descriptor may do with it what it likes afterwards, and the
/// parent's copy, with the parent's event loop, is not touched.
pub(crate) fn close_in_child(inherited: BorrowedFd<'_>) {
    let Ok(null) = File::open("/dev/null") else {
        return;
    };
    // SAFETY: the descriptor is open, as `inherited` shows, and stays open and owned by its
    // owner: dup2 replaces what it stands for at one stroke, and `ManuallyDrop` never closes it.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(inherited.as_raw_fd()) });
    // Without this the parent's sandbox lives until this process ends, no longer.
    let _kept_open = rustix::io::dup2(&null, &mut target);
}
