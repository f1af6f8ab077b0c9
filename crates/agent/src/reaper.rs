//! Starts child processes and collects the end of every one of them, once.
//!
//! ```text
//!   start:  register slot -> clone3 writes the number into the slot -> the child runs
//!   reap:   SIGCHLD -> wait for whoever ended -> its slot, if it has one, gets the status
//! ```
//!
//! As PID 1 the reaper waits for any process, because every orphan of the guest becomes a child
//! of PID 1. Elsewhere it waits for its own children only, so that it takes no status from others
//! in the same process.
//!
//! Invariant: a slot is in the table exactly as long as its process is not reaped. So while the
//! table is locked, the number in a slot belongs to that process and to no other.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::sync::{oneshot, watch};

use crate::sys::signals;
use crate::sys::spawn::{SpawnError, SpawnPlan, spawn};

/// Whose ends a [`Reaper`] collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReapScope {
    /// Every process that becomes this one's child; for PID 1.
    Everyone,
    /// Processes that this reaper started.
    OwnChildren,
}

/// Owner of all child processes.
#[derive(Debug)]
pub(crate) struct Reaper {
    scope: ReapScope,
    /// Children that are not reaped yet. Guards their numbers: they are waited for and signalled
    /// only under this lock. Taken alone, and never held across an `.await`.
    slots: Mutex<Vec<Slot>>,
    /// Counts reapings, so that others can wait for one.
    reaped: watch::Sender<u64>,
}

#[derive(Debug)]
struct Slot {
    pid: Arc<AtomicI32>,
    status: oneshot::Sender<WaitStatus>,
}

/// A child process that has become its command.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Receives how it ended.
    pub(crate) status: oneshot::Receiver<WaitStatus>,
    cell: Arc<AtomicI32>,
    reaper: Arc<Reaper>,
}

impl Reaper {
    pub(crate) fn new(scope: ReapScope) -> Arc<Self> {
        Arc::new(Self {
            scope,
            slots: Mutex::new(Vec::new()),
            reaped: watch::Sender::new(0),
        })
    }

    /// Starts the process that `plan` describes. Blocks until it has become its command.
    ///
    /// # Errors
    ///
    /// As [`spawn`]. A child that was made is still reaped.
    pub(crate) fn start(
        self: &Arc<Self>,
        plan: &SpawnPlan,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<Child, SpawnError> {
        let cell = Arc::new(AtomicI32::new(0));
        let (sender, status) = oneshot::channel();
        self.lock().push(Slot {
            pid: Arc::clone(&cell),
            status: sender,
        });
        let result = spawn(plan, cgroup, &cell);
        if cell.load(Ordering::Acquire) == 0 {
            self.lock().retain(|slot| !Arc::ptr_eq(&slot.pid, &cell));
        }
        Ok(Child {
            pid: result?,
            status,
            cell,
            reaper: Arc::clone(self),
        })
    }

    /// Collects every end there is and returns whether no child is left.
    pub(crate) fn reap(&self) -> bool {
        let is_childless = match self.scope {
            ReapScope::Everyone => self.reap_everyone(),
            ReapScope::OwnChildren => self.reap_own_children(),
        };
        self.reaped
            .send_modify(|count| *count = count.wrapping_add(1));
        is_childless
    }

    /// Returns a receiver that changes whenever ends were collected.
    pub(crate) fn reapings(&self) -> watch::Receiver<u64> {
        self.reaped.subscribe()
    }

    fn reap_everyone(&self) -> bool {
        loop {
            let mut slots = self.lock();
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => deliver(&mut slots, pid, status),
                Ok(None) => return false,
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    fn reap_own_children(&self) -> bool {
        let mut slots = self.lock();
        let pids: Vec<Pid> = slots
            .iter()
            .filter_map(|slot| Pid::from_raw(slot.pid.load(Ordering::Acquire)))
            .collect();
        for pid in pids {
            if let Ok(Some((pid, status))) =
                rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)
            {
                deliver(&mut slots, pid, status);
            }
        }
        slots.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        // The table is whole between any two of its operations, so a panic elsewhere while it
        // was locked does not spoil it.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deliver(slots: &mut Vec<Slot>, pid: Pid, status: WaitStatus) {
    let number = pid.as_raw_nonzero().get();
    let position = slots
        .iter()
        .position(|slot| slot.pid.load(Ordering::Acquire) == number);
    if let Some(position) = position {
        // The receiver is gone when nobody wants to know any more.
        let _ = slots.swap_remove(position).status.send(status);
    }
}

impl Child {
    /// Sends signal `number` to the child's process group, unless the child is reaped.
    pub(crate) fn signal_group(&self, number: i32) {
        let slots = self.reaper.lock();
        if slots.iter().any(|slot| Arc::ptr_eq(&slot.pid, &self.cell)) {
            // A group that is gone needs no signal.
            let _ = signals::signal_group(self.pid, number);
        }
    }
}
