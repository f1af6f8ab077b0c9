//! The kernel's generator of random numbers.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

/// Has the kernel take its next random numbers from a new state (include/uapi/linux/random.h,
/// `RNDRESEEDCRNG`).
const RESEED: libc::Ioctl = 0x5207;

/// Mixes `seed` into what the kernel makes random numbers of, and has it use that from now on: what
/// it would have given out before, it never gives out.
///
/// # Errors
///
/// When the kernel refuses, as it does to who is not root.
pub(crate) fn reseed(seed: &[u8]) -> io::Result<()> {
    let mut generator = OpenOptions::new().write(true).open("/dev/urandom")?;
    generator.write_all(seed)?;
    // SAFETY: this request has no argument and touches no memory of this process; the descriptor is
    // open as long as `generator` is.
    let result = unsafe { libc::ioctl(generator.as_raw_fd(), RESEED) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
