//! What the jail's test tries, and the standard library has no way to.

use std::io;

/// Asks to be traced by the parent (ptrace(2), `PTRACE_TRACEME`).
pub(crate) fn be_traced() {
    // SAFETY: this request takes no other argument and touches no memory.
    let _refused = unsafe { libc::ptrace(libc::PTRACE_TRACEME) };
}

/// Maps a page that could be executed.
pub(crate) fn executable_page() -> io::Result<()> {
    let rights = libc::PROT_READ | libc::PROT_EXEC;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
