//! The unsafe code of this crate: leaving namespaces.

use std::io;

use rustix::thread::UnshareFlags;

/// Gives this process namespaces of its own.
///
/// # Errors
///
/// When the host does not allow it, or this process has several threads and wants a user
/// namespace.
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // Sharing anything else ends by other means.
    let known = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    // SAFETY: what is unsafe is to part threads that share their descriptors; no flag that does
    // so is among those that are let through.
    let unshared = unsafe { rustix::thread::unshare_unsafe(namespaces & known) };
    unshared.map_err(io::Error::from)
}
