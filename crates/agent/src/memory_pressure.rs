//! Ends a standstill for want of memory.
//!
//! A guest with a little too little memory throws the pages of its running programs away and reads
//! them from the disk again, over and over. To the kernel that is progress, so it can take minutes
//! until it calls its out-of-memory killer, and meanwhile nothing gets anywhere. This agent does:
//! it lives in the initramfs, whose pages are never thrown away. The kernel measures how long all
//! tasks that could run wait for memory (Linux Documentation/accounting/psi.rst); when that is most
//! of the time for seconds, the kernel is told to kill what uses most. It accounts for that as for
//! any such kill, so a command that loses a process ends as out of memory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use tokio::io::Interest;

use crate::sys::watch::watch;

const PRESSURE: &str = "/proc/pressure/memory";

/// Told when all tasks have waited for 3 of 4 seconds, in microseconds. A standstill that was left alone
/// waited for 48 of 60 seconds. The kernel overwrites the last byte (Linux kernel/sched/psi.c,
/// `psi_write`).
const TRIGGER: &str = "full 3000000 4000000\0";

/// The kernel's key for "kill what uses most memory" (Linux Documentation/admin-guide/sysrq.rst).
const KILL_KEY: &str = "f";

/// Ends standstills for as long as it is polled. A kernel that does not measure pressure has nobody
/// who does.
pub(crate) async fn end_standstills() -> io::Result<()> {
    match trigger() {
        Ok(trigger) => kill_at(trigger).await,
        Err(_not_measured) => std::future::pending().await,
    }
}

fn trigger() -> io::Result<OwnedFd> {
    let mut file = OpenOptions::new().read(true).write(true).open(PRESSURE)?;
    file.write_all(TRIGGER.as_bytes())?;
    Ok(file.into())
}

async fn kill_at(trigger: OwnedFd) -> io::Result<()> {
    let trigger = watch(trigger, Interest::PRIORITY)?;
    loop {
        trigger.ready(Interest::PRIORITY).await?.clear_ready();
        // What else could be done when not even this can be?
        let _ = fs::write("/proc/sysrq-trigger", KILL_KEY);
    }
}
