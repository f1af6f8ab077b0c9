//! The cgroups that commands run in: one for each, so that a command and everything it ever
//! started can be killed and limited together, and so that the kernel's out-of-memory kills are
//! attributed.
//!
//! ```text
//!   /sys/fs/cgroup                 controllers handed down: memory, cpu, pids
//!   └── smolvm                     the same
//!       ├── agent                  PID 1; no limit
//!       └── commands               the same; limit of processes over all commands
//!           └── exec-N             command N: made -> command ended -> empty -> removed
//! ```
//!
//! A limit that the kernel cannot keep is an error, never ignored.
//!
//! A cgroup outlives its command while daemons of that command live. Each of those ends as a
//! child of PID 1, so after a reaping is exactly when an ended cgroup can have become empty. Until
//! then it is known whose it is: the kernel tells of a socket in which cgroup it was made.
//!
//! Source: Linux Documentation/admin-guide/cgroup-v2.rst.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use smolvm_protocol::message::{Limits, Owner};

/// Directory of all of SmolVM's cgroups, below the mount point of cgroup2.
const PARENT: &str = "smolvm";

/// Directory of the commands' cgroups, below [`PARENT`].
const COMMANDS: &str = "commands";

/// What is handed down to commands, each as far as the kernel has it.
const CONTROLLERS: [&str; 3] = ["+memory", "+cpu", "+pids"];

/// Period over which a command's share of the processors is kept, in microseconds: the kernel's
/// default (Documentation/admin-guide/cgroup-v2.rst, "cpu.max").
const CPU_PERIOD_US: u64 = 100_000;

/// The part of the cgroup tree that belongs to the agent.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// Where the commands' cgroups are.
    commands: PathBuf,
    next_number: AtomicU64,
    /// Cgroups whose command has ended, to be removed once they are empty. Taken before `owners`.
    ended: Mutex<Vec<Ended>>,
    /// The commands of the cgroups that there are, by the kernel's numbers of these.
    owners: Mutex<BTreeMap<u64, Owner>>,
}

/// A cgroup whose command has ended.
#[derive(Debug)]
struct Ended {
    path: PathBuf,
    kernel_number: u64,
}

impl Cgroups {
    /// Makes the tree below `mount_point` and moves this process into its leaf.
    ///
    /// A kernel without a controller is fine as long as nothing is to be limited by it; without
    /// the memory controller, out-of-memory kills are reported as the signal they are.
    ///
    /// # Errors
    ///
    /// When cgroup2 is not mounted there or may not be changed.
    pub(crate) fn set_up(mount_point: &Path) -> io::Result<Arc<Self>> {
        let parent = mount_point.join(PARENT);
        let agent = parent.join("agent");
        let commands = parent.join(COMMANDS);
        fs::create_dir_all(&agent)?;
        fs::create_dir_all(&commands)?;
        fs::write(agent.join("cgroup.procs"), "0")?;
        for directory in [mount_point, &parent, &commands] {
            for controller in CONTROLLERS {
                let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
            }
        }
        Ok(Arc::new(Self {
            commands,
            next_number: AtomicU64::new(1),
            ended: Mutex::new(Vec::new()),
            owners: Mutex::new(BTreeMap::new()),
        }))
    }

    /// Limits the processes and threads of all commands together.
    ///
    /// # Errors
    ///
    /// When the kernel cannot.
    pub(crate) fn limit_processes(&self, count: u32) -> Result<(), LimitError> {
        set_limit(&self.commands, "processes", "pids.max", &count.to_string())
    }

    /// Makes a cgroup for one command, which may use what `limits` say.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, such as when it is out of memory or cannot keep a limit.
    pub(crate) fn create(self: &Arc<Self>, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let path = self.commands.join(format!("exec-{number}"));
        fs::create_dir(&path)?;
        let opened = rustix::fs::open(
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let opened = opened.and_then(|directory| {
            // What the kernel calls the cgroup's number (Linux include/linux/cgroup.h, `cgroup_id`).
            let kernel_number = rustix::fs::fstat(&directory)?.st_ino;
            Ok((directory, kernel_number))
        });
        let (directory, kernel_number) = match opened {
            Ok(opened) => opened,
            Err(errno) => {
                // Nothing has been started in it; what cannot be removed is an empty directory.
                let _ = rustix::fs::rmdir(&path);
                return Err(io::Error::from(errno).into());
            }
        };
        let cgroup = Cgroup {
            path,
            directory,
            number,
            kernel_number,
            owner: Arc::clone(self),
        };
        cgroup.limit(limits)?;
        Ok(cgroup)
    }

    /// Removes the cgroups of ended commands that have become empty.
    pub(crate) fn sweep(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|cgroup| {
            let is_left = matches!(
                rustix::fs::rmdir(&cgroup.path),
                Err(rustix::io::Errno::BUSY | rustix::io::Errno::NOTEMPTY)
            );
            if !is_left {
                self.owners().remove(&cgroup.kernel_number);
            }
            is_left
        });
    }

    /// Returns the command whose cgroup has this number of the kernel's.
    pub(crate) fn owner(&self, kernel_number: u64) -> Option<Owner> {
        self.owners().get(&kernel_number).cloned()
    }

    fn owners(&self) -> MutexGuard<'_, BTreeMap<u64, Owner>> {
        // Each change is one call on the map: there is no state in between.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a cgroup could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("make a cgroup")]
    Make(#[from] io::Error),
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// A limit that the guest's kernel does not keep.
#[derive(Debug, thiserror::Error)]
#[error("the guest's kernel cannot limit the {what} of a command: {source}")]
pub(crate) struct LimitError {
    what: &'static str,
    source: io::Error,
}

fn set_limit(
    cgroup: &Path,
    what: &'static str,
    file: &'static str,
    value: &str,
) -> Result<(), LimitError> {
    // Without the controller there is no such file, and cgroup2 lets nobody make one.
    OpenOptions::new()
        .write(true)
        .open(cgroup.join(file))
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| LimitError { what, source })
}

/// The cgroup of one command. Dropping it says that the command has ended.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
    /// Number of the command.
    number: u64,
    kernel_number: u64,
    owner: Arc<Cgroups>,
}

impl Cgroup {
    /// Says which command was started in it: its process, its program, and the job that it is for.
    pub(crate) fn note_command(&self, pid: u32, program: String, job: Option<String>) {
        let owner = Owner {
            number: self.number,
            pid,
            program,
            job,
            has_ended: false,
        };
        self.owner.owners().insert(self.kernel_number, owner);
    }

    /// Kills every process in the cgroup, including those being forked right now.
    pub(crate) fn kill(&self) {
        // It fails only for a cgroup that is gone.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    fn limit(&self, limits: &Limits) -> Result<(), LimitError> {
        if let Some(memory_mib) = limits.memory_mib {
            let bytes = u64::from(memory_mib) * 1024 * 1024;
            set_limit(&self.path, "memory", "memory.max", &bytes.to_string())?;
            // A command that has lost a process for want of memory is rarely of use any more.
            set_limit(&self.path, "memory", "memory.oom.group", "1")?;
            if self.path.join("memory.swap.max").exists() {
                set_limit(&self.path, "memory", "memory.swap.max", "0")?;
            }
        }
        if let Some(cpu_percent) = limits.cpu_percent {
            let quota_us = u64::from(cpu_percent) * CPU_PERIOD_US / 100;
            let value = format!("{quota_us} {CPU_PERIOD_US}");
            set_limit(&self.path, "processor time", "cpu.max", &value)?;
        }
        if let Some(processes) = limits.processes {
            set_limit(&self.path, "processes", "pids.max", &processes.to_string())?;
        }
        Ok(())
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
        if let Some(owner) = self.owner.owners().get_mut(&self.kernel_number) {
            owner.has_ended = true;
        }
        let ended = Ended {
            path: std::mem::take(&mut self.path),
            kernel_number: self.kernel_number,
        };
        self.owner
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(ended);
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
