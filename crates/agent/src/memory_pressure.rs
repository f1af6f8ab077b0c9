//! Ends a standstill for want of memory.
//!
//! A guest with a little too little memory throws the pages of its running programs away and reads
//! them from the disk again, over and over. To the kernel that is progress, so it can take minutes
//! until it calls its out-of-memory killer, and meanwhile nothing gets anywhere. This agent does:
//! it lives in the initramfs, whose pages are never thrown away. The kernel measures how long all
//! tasks that could run wait for memory (Linux Documentation/accounting/psi.rst); when that is too
//! much of the time for seconds, the kernel is told to kill what uses most. It accounts for that as
//! for any such kill, so a command that loses a process ends as out of memory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use tokio::io::Interest;

use crate::sys::watch::watch;

const PRESSURE: &str = "/proc/pressure/memory";

/// Told when all tasks have waited for 3 of 4 seconds, in microseconds. A standstill that was left alone
/// waited for 48 of 60 seconds. The kernel overwrites the last byte (Linux kernel/sched/psi.c,
/// `psi_write`).
const STANDSTILL: &str = "full 3000000 4000000\0";

/// Told when they have waited for 0.8 of 4 seconds. A browser's page that had taken all memory was
/// left alone for 190 seconds, in which all waited for 57, since some of its processes can do their
/// little with what is left.
const SLOWDOWN: &str = "full 800000 4000000\0";

/// Less available memory than this part of all makes a slowdown a standstill that comes.
const LITTLE: u64 = 10;

/// The kernel's key for "kill what uses most memory" (Linux Documentation/admin-guide/sysrq.rst).
const KILL_KEY: &str = "f";

/// Ends standstills for as long as it is polled. A kernel that does not measure pressure has nobody
/// who does.
pub(crate) async fn end_standstills() -> io::Result<()> {
    let (Ok(standstill), Ok(slowdown)) = (trigger(STANDSTILL), trigger(SLOWDOWN)) else {
        return std::future::pending().await;
    };
    tokio::try_join!(
        kill_at(standstill, || true),
        kill_at(slowdown, has_little_memory)
    )?;
    Ok(())
}

fn trigger(threshold: &str) -> io::Result<OwnedFd> {
    let mut file = OpenOptions::new().read(true).write(true).open(PRESSURE)?;
    file.write_all(threshold.as_bytes())?;
    Ok(file.into())
}

async fn kill_at(trigger: OwnedFd, is_needed: impl Fn() -> bool) -> io::Result<()> {
    let trigger = watch(trigger, Interest::PRIORITY)?;
    loop {
        trigger.ready(Interest::PRIORITY).await?.clear_ready();
        if is_needed() {
            // What else could be done when not even this can be?
            let _ = fs::write("/proc/sysrq-trigger", KILL_KEY);
        }
    }
}

/// Says whether little memory could be had without taking it from somebody (proc_meminfo(5)).
/// A command at a limit of its own waits as well, and no other should be killed for it.
fn has_little_memory() -> bool {
    let Ok(meminfo) = fs::read_to_string("/proc/meminfo") else {
        return false;
    };
    match (
        kibibytes(&meminfo, "MemAvailable:"),
        kibibytes(&meminfo, "MemTotal:"),
    ) {
        (Some(available), Some(total)) => available < total / LITTLE,
        _ => false,
    }
}

fn kibibytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_by_name() {
        let meminfo = "MemTotal:         997024 kB\nMemAvailable:      49620 kB\nShort:\n";
        assert_eq!(kibibytes(meminfo, "MemAvailable:"), Some(49620));
        assert_eq!(kibibytes(meminfo, "MemTotal:"), Some(997_024));
        assert_eq!(kibibytes(meminfo, "Short:"), None);
        assert_eq!(kibibytes(meminfo, "Mem:"), None);
    }
}
