//! The unsafe code of this crate: taking over a descriptor that was inherited under a number.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use rustix::io::FdFlags;

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
