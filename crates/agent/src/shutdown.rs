//! The orderly end of the guest: processes are asked to end, then killed; file systems are
//! written out and made read-only.
//!
//! Every process of the guest is, or becomes when its parents end, a child of PID 1. So no
//! children means no processes, and waiting is done by reaping.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::{MountFlags, mount_remount};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use crate::session::Environment;
use crate::sys::signals::signal_everyone;

/// How long processes have to end by themselves after SIGTERM.
const TERMINATE_PATIENCE: Duration = Duration::from_secs(1);

/// How long the kernel has to get rid of killed processes.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// Number of SIGPWR (signal(7)), with which a power supply reports its failure.
const SIGPWR: i32 = libc::SIGPWR;

/// Waits for a signal that asks PID 1 to switch the machine off: SIGTERM, SIGPWR, or the SIGINT
/// that ctrl-alt-del has become.
///
/// # Errors
///
/// When the signals cannot be listened to.
pub(crate) async fn signalled() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut power = signal(SignalKind::from_raw(SIGPWR))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = power.recv() => {}
    }
    Ok(())
}

/// Ends all processes of the guest and makes its file systems consistent.
pub(crate) async fn run(environment: &Arc<Environment>, overlay_disk: Option<OwnedFd>) {
    end_processes(environment).await;
    // Writing out can take as long as the disk does; the host decides when it has waited enough.
    let _ = tokio::task::spawn_blocking(move || make_read_only(overlay_disk)).await;
}

async fn end_processes(environment: &Arc<Environment>) {
    for (number, patience) in [
        (libc::SIGTERM, TERMINATE_PATIENCE),
        (libc::SIGKILL, KILL_PATIENCE),
    ] {
        // It fails when there is nobody left to signal.
        let _ = signal_everyone(number);
        if became_childless(environment, Instant::now() + patience).await {
            return;
        }
    }
}

/// Waits until no process is left or `deadline` has passed, and returns which.
async fn became_childless(environment: &Arc<Environment>, deadline: Instant) -> bool {
    let mut reapings = environment.reaper.reapings();
    loop {
        reapings.mark_unchanged();
        if environment.reap() {
            return true;
        }
        reapings.mark_unchanged();
        if timeout_at(deadline, reapings.changed()).await.is_err() {
            return false;
        }
    }
}

fn make_read_only(overlay_disk: Option<OwnedFd>) {
    rustix::fs::sync();
    // The joined root first: it holds files of the disk open for writing.
    let _ = mount_remount("/", MountFlags::RDONLY, c"");
    // The disk's own mount is hidden below the root and is reached through the open directory.
    if let Some(disk) = overlay_disk {
        let hidden = format!("/proc/self/fd/{}", disk.as_raw_fd());
        let _ = mount_remount(hidden, MountFlags::RDONLY, c"");
    }
}
