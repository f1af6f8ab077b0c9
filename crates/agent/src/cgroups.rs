//! The cgroups that commands run in: one for each, so that a command and everything it ever
//! started can be killed at once, and so that the kernel's out-of-memory kills are attributed.
//!
//! ```text
//!   /sys/fs/cgroup                 memory controller handed down
//!   └── smolvm                     memory controller handed down
//!       ├── agent                  PID 1
//!       └── exec-N                 command N: made -> command ended -> empty -> removed
//! ```
//!
//! A cgroup outlives its command while daemons of that command live. Each of those ends as a
//! child of PID 1, so after a reaping is exactly when an ended cgroup can have become empty.
//!
//! Source: Linux Documentation/admin-guide/cgroup-v2.rst.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

/// Directory of all of SmolVM's cgroups, below the mount point of cgroup2.
const PARENT: &str = "smolvm";

/// The part of the cgroup tree that belongs to the agent.
#[derive(Debug)]
pub(crate) struct Cgroups {
    parent: PathBuf,
    next_number: AtomicU64,
    /// Cgroups whose command has ended, to be removed once they are empty. Taken alone.
    ended: Mutex<Vec<PathBuf>>,
}

impl Cgroups {
    /// Makes the tree below `mount_point` and moves this process into its leaf.
    ///
    /// A kernel without the memory controller is fine; out-of-memory kills are then reported as
    /// the signal they are.
    ///
    /// # Errors
    ///
    /// When cgroup2 is not mounted there or may not be changed.
    pub(crate) fn set_up(mount_point: &Path) -> io::Result<Arc<Self>> {
        let parent = mount_point.join(PARENT);
        let agent = parent.join("agent");
        fs::create_dir_all(&agent)?;
        fs::write(agent.join("cgroup.procs"), "0")?;
        for directory in [mount_point, &parent] {
            let _ = fs::write(directory.join("cgroup.subtree_control"), "+memory");
        }
        Ok(Arc::new(Self {
            parent,
            next_number: AtomicU64::new(1),
            ended: Mutex::new(Vec::new()),
        }))
    }

    /// Makes a cgroup for one command.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, such as when it is out of memory.
    pub(crate) fn create(self: &Arc<Self>) -> io::Result<Cgroup> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let path = self.parent.join(format!("exec-{number}"));
        fs::create_dir(&path)?;
        let directory = rustix::fs::open(
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Cgroup {
            path,
            directory,
            owner: Arc::clone(self),
        })
    }

    /// Removes the cgroups of ended commands that have become empty.
    pub(crate) fn sweep(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|path| {
            matches!(
                rustix::fs::rmdir(path),
                Err(rustix::io::Errno::BUSY | rustix::io::Errno::NOTEMPTY)
            )
        });
    }
}

/// The cgroup of one command. Dropping it says that the command has ended.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
    owner: Arc<Cgroups>,
}

impl Cgroup {
    /// Kills every process in the cgroup, including those being forked right now.
    pub(crate) fn kill(&self) {
        // It fails only for a cgroup that is gone.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Returns how many of its processes the kernel killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events"))
            .ok()
            .and_then(|events| oom_kills_in(&events))
            .unwrap_or(0)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        self.owner
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path);
        self.owner.sweep();
    }
}

fn oom_kills_in(events: &str) -> Option<u64> {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kill_line_is_told_from_its_neighbours() {
        let events = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 7\n";
        assert_eq!(oom_kills_in(events), Some(1));
    }

    #[test]
    fn events_without_the_counter_count_nothing() {
        assert_eq!(oom_kills_in("low 0\n"), None);
    }
}
