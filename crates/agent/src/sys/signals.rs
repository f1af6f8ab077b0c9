//! Sending signals by number.

use rustix::io::Errno;
use rustix::process::Pid;

/// Largest signal number (signal(7), `SIGRTMAX`).
pub(crate) const MAX_SIGNAL: i32 = 64;

/// Sends signal `number` to the process group that `leader` leads.
///
/// Preconditions: `leader` is not reaped yet, so its number cannot belong to another process.
///
/// # Errors
///
/// When the kernel refuses, such as for a number over [`MAX_SIGNAL`].
pub(crate) fn signal_group(leader: Pid, number: i32) -> Result<(), Errno> {
    send(-leader.as_raw_nonzero().get(), number)
}

/// Sends signal `number` to every process but this one and the kernel's.
///
/// # Errors
///
/// When there is no other process.
pub(crate) fn signal_everyone(number: i32) -> Result<(), Errno> {
    send(-1, number)
}

/// Sends signal `number` to one process.
///
/// # Errors
///
/// When the process is gone.
pub(crate) fn signal_process(process: Pid, number: i32) -> Result<(), Errno> {
    send(process.as_raw_nonzero().get(), number)
}

fn send(target: i32, number: i32) -> Result<(), Errno> {
    // SAFETY: kill(2) takes two numbers and touches no memory of this process.
    let result = unsafe { libc::kill(target, number) };
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Returns the error of the C library's call that just failed on this thread.
pub(crate) fn last_errno() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    Errno::from_raw_os_error(code)
}
