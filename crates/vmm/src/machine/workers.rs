//! The devices' threads: the only place that waits for events of guest and host.
//!
//! Each disk has a thread of its own, since its file is read and written while the thread waits;
//! the other devices, which never wait, share one.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::Builder;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::platform::Platform;
use crate::devices::virtio::device::Turn;
use crate::jail;
use crate::jail::filters::ThreadKind;

/// Events taken at once.
const EVENTS: usize = 16;

/// Milliseconds to wait for an event (epoll_wait(2)).
const FOR_EVER: i32 = -1;
const NOT_AT_ALL: i32 = 0;

/// Something that a worker waits for.
enum Watch {
    /// The doorbell of a queue.
    Doorbell {
        slot: usize,
        queue: usize,
        event: EventFd,
    },
    /// What a device waits for on the host.
    Source { slot: usize },
}

/// Starts the threads for devices whose queues have these doorbells; the first `disks` devices
/// are disks.
pub(crate) fn start(
    platform: &Arc<Platform>,
    doorbells: Vec<Vec<EventFd>>,
    disks: usize,
) -> io::Result<()> {
    let mut others = Vec::new();
    for (slot, events) in doorbells.into_iter().enumerate() {
        let watch = |(queue, event)| Watch::Doorbell { slot, queue, event };
        let watches = events.into_iter().enumerate().map(watch);
        if slot < disks {
            spawn(format!("disk-{slot}"), platform, watches.collect())?;
        } else {
            others.extend(watches);
            others.push(Watch::Source { slot });
        }
    }
    spawn("devices".to_owned(), platform, others)
}

fn spawn(name: String, platform: &Arc<Platform>, watches: Vec<Watch>) -> io::Result<()> {
    let epoll = Epoll::new()?;
    for (index, watch) in watches.iter().enumerate() {
        let (descriptor, events) = match watch {
            Watch::Doorbell { event, .. } => (Some(event.as_raw_fd()), EventSet::IN),
            Watch::Source { slot } => {
                let source = platform.slots()[*slot].source();
                // A device that cannot go on now is told again only of a change.
                let change = EventSet::IN
                    | EventSet::OUT
                    | EventSet::READ_HANG_UP
                    | EventSet::EDGE_TRIGGERED;
                (source.map(|source| source.as_raw_fd()), change)
            }
        };
        if let Some(descriptor) = descriptor {
            let event = EpollEvent::new(events, index as u64);
            epoll.ctl(ControlOperation::Add, descriptor, event)?;
        }
    }
    let platform = platform.clone();
    Builder::new().name(name).spawn(move || {
        jail::confine_or_end(ThreadKind::Devices);
        work(&epoll, &platform, &watches);
    })?;
    Ok(())
}

fn work(epoll: &Epoll, platform: &Platform, watches: &[Watch]) {
    let mut events = [EpollEvent::default(); EVENTS];
    // What has more to do; others have their turn in between.
    let mut unfinished: Vec<usize> = Vec::new();
    loop {
        let patience = if unfinished.is_empty() {
            FOR_EVER
        } else {
            NOT_AT_ALL
        };
        let count = match epoll.wait(patience, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // The descriptors are ours and open.
            Err(_) => return,
        };
        let mut ready = std::mem::take(&mut unfinished);
        let events = events[..count].iter().map(EpollEvent::data);
        ready.extend(events.filter_map(|index| usize::try_from(index).ok()));
        ready.sort_unstable();
        ready.dedup();
        let is_unfinished = |index: &usize| serve(platform, &watches[*index]) == Turn::Unfinished;
        unfinished.extend(ready.into_iter().filter(is_unfinished));
    }
}

/// Has a device do what it has been woken for.
fn serve(platform: &Platform, watch: &Watch) -> Turn {
    match watch {
        Watch::Doorbell { slot, queue, event } => {
            // Rung already, or not: the queue says.
            let _rings = event.read();
            platform.slots()[*slot].kicked(*queue)
        }
        Watch::Source { slot } => platform.slots()[*slot].source_ready(),
    }
}
