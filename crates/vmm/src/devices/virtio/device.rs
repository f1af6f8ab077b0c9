//! What all virtio devices have in common, and the queues they work on.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::{GuestMemoryBackend as _, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::traffic::TrafficCount;
use crate::memory::Memory;

/// The device has used buffers (Virtio 1.3 §4.2.2, `InterruptStatus` bit 0).
const INTERRUPT_USED_BUFFERS: u32 = 1 << 0;

/// The device's configuration, or its need of a reset, has changed (bit 1).
const INTERRUPT_CONFIGURATION: u32 = 1 << 1;

/// Buffers of a request at most: what one system call takes (limits.h, `IOV_MAX`). A chain in the
/// queue's own descriptors is never as long; one in a table of its own can have 65535 of them, and a
/// queue that is full of those would have this process hold hundreds of MiB.
const MAX_BUFFERS: usize = 1024;

/// Requests that a device takes before others have their turn: more than any queue has places, so that
/// a driver that adds no more while it is served is served whole.
const TURN_REQUESTS: u32 = 1024;

/// How a device's turn has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Turn {
    /// It waits for its driver or its host.
    Done,
    /// It has more to do. A driver can see to it that this is always so: its rings can lie where its
    /// device writes.
    Unfinished,
}

/// What one kind of device does. No method waits: what cannot be done now is done when the next
/// one is called.
pub(crate) trait VirtioDevice: Send {
    /// Returns the device's number (Virtio 1.3 §5).
    fn id(&self) -> u32;

    /// Returns the features it offers, beside those of every device.
    fn features(&self) -> u64;

    /// Returns the largest size of each queue.
    fn queue_sizes(&self) -> &[u16];

    /// Returns where it counts what it passes on, if it does.
    fn traffic(&self) -> Option<Arc<TrafficCount>> {
        None
    }

    /// Returns the bytes of its configuration.
    fn configuration(&self) -> &[u8] {
        &[]
    }

    /// The driver has accepted these features, and its queues are there.
    fn activate(&mut self, _features: u64) {}

    /// The driver is gone.
    fn reset(&mut self) {}

    /// The driver has put buffers into this queue.
    fn kicked(&mut self, queue: usize, queues: &mut Queues) -> Result<(), BrokenDriver>;

    /// Returns what of the host it waits for, if anything.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Its source can be read or written again, or has ended.
    fn source_ready(&mut self, _queues: &mut Queues) -> Result<(), BrokenDriver> {
        Ok(())
    }
}

/// The driver has done what no driver may do; the device stops until it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct BrokenDriver {
    /// What it has done.
    pub(crate) reason: &'static str,
}

/// Says what a driver has done that it may not.
pub(crate) const fn broken(reason: &'static str) -> BrokenDriver {
    BrokenDriver { reason }
}

/// Tells whether a stream of the host's has only nothing to say, or no room, now.
pub(super) fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The interrupt of a device, and what it is for.
#[derive(Debug)]
pub(crate) struct DeviceInterrupt {
    event: EventFd,
    status: AtomicU32,
}

impl DeviceInterrupt {
    pub(crate) fn new(event: EventFd) -> Arc<Self> {
        Arc::new(Self {
            event,
            status: AtomicU32::new(0),
        })
    }

    fn raise(&self, reason: u32) {
        self.status.fetch_or(reason, Ordering::SeqCst);
        // Full only when nobody looks at it: then it is raised already.
        let _pending = self.event.write(1);
    }

    pub(super) fn raise_configuration(&self) {
        self.raise(INTERRUPT_CONFIGURATION);
    }

    /// Returns what it has been raised for.
    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The driver has seen these reasons.
    pub(super) fn acknowledge(&self, reasons: u32) {
        self.status.fetch_and(!reasons, Ordering::SeqCst);
    }

    pub(super) fn clear(&self) {
        self.status.store(0, Ordering::SeqCst);
    }
}

/// The queues of a device that is in use.
#[derive(Debug)]
pub(crate) struct Queues {
    memory: Memory,
    queues: Vec<Queue>,
    interrupt: Arc<DeviceInterrupt>,
    /// Requests that may be taken still in this turn.
    left: u32,
}

impl Queues {
    pub(super) const fn new(
        memory: Memory,
        queues: Vec<Queue>,
        interrupt: Arc<DeviceInterrupt>,
    ) -> Self {
        Self {
            memory,
            queues,
            interrupt,
            left: TURN_REQUESTS,
        }
    }

    pub(super) const fn begin_turn(&mut self) {
        self.left = TURN_REQUESTS;
    }

    pub(super) const fn end_turn(&self) -> Turn {
        if self.left == 0 {
            Turn::Unfinished
        } else {
            Turn::Done
        }
    }

    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes the next request out of a queue, if there is one and it is the device's turn.
    /// [`Queues::complete`] gives it back.
    pub(crate) fn take(&mut self, queue: usize) -> Result<Option<Request>, BrokenDriver> {
        let memory = &self.memory;
        let queue = self.queues.get_mut(queue).ok_or(broken("no such queue"))?;
        if !queue.ready() || self.left == 0 {
            return Ok(None);
        }
        let mut chains = queue
            .iter(memory)
            .map_err(|_| broken("a queue has an impossible index"))?;
        let Some(chain) = chains.next() else {
            return Ok(None);
        };
        self.left -= 1;
        Request::of(chain).map(Some)
    }

    /// Puts the request that was taken last back, to be taken again.
    pub(crate) fn put_back(&mut self, queue: usize) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.set_next_avail(queue.next_avail().wrapping_sub(1));
        }
    }

    /// Gives a request back, of which so many bytes have been written.
    pub(crate) fn complete(
        &mut self,
        queue: usize,
        request: &Request,
        written: u32,
    ) -> Result<(), BrokenDriver> {
        let memory = &self.memory;
        let queue = self.queues.get_mut(queue).ok_or(broken("no such queue"))?;
        queue
            .add_used(memory, request.head, written)
            .map_err(|_| broken("a queue's used ring is not in memory"))
    }

    /// Tells the driver of requests given back, if it wants to know.
    pub(crate) fn notify(&mut self, queue: usize) -> Result<(), BrokenDriver> {
        let memory = &self.memory;
        let queue = self.queues.get_mut(queue).ok_or(broken("no such queue"))?;
        // The rings of a queue that is not ready are nowhere.
        if !queue.ready() {
            return Ok(());
        }
        let is_wanted = queue
            .needs_notification(memory)
            .map_err(|_| broken("a queue's rings are not in memory"))?;
        if is_wanted {
            self.interrupt.raise(INTERRUPT_USED_BUFFERS);
        }
        Ok(())
    }

    /// Has the driver kick again. Returns whether there are requests that came before it could, for
    /// this turn.
    pub(crate) fn wait_for_kick(&mut self, queue: usize) -> Result<bool, BrokenDriver> {
        let memory = &self.memory;
        let queue = self.queues.get_mut(queue).ok_or(broken("no such queue"))?;
        if !queue.ready() {
            return Ok(false);
        }
        let has_more = queue
            .enable_notification(memory)
            .map_err(|_| broken("a queue's rings are not in memory"))?;
        Ok(has_more && self.left > 0)
    }

    pub(super) fn into_queues(self) -> Vec<Queue> {
        self.queues
    }
}

/// One request: a chain of buffers, first those to read, then those to write (Virtio 1.3 §2.7.4.2).
#[derive(Clone, Debug)]
pub(crate) struct Request {
    head: u16,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

#[derive(Clone, Copy, Debug)]
struct Buffer {
    address: vm_memory::GuestAddress,
    length: usize,
}

impl Request {
    fn of(chain: DescriptorChain<&Memory>) -> Result<Self, BrokenDriver> {
        let mut request = Self {
            head: chain.head_index(),
            readable: Vec::new(),
            writable: Vec::new(),
        };
        for descriptor in chain {
            let buffer = Buffer {
                address: descriptor.addr(),
                length: descriptor.len() as usize,
            };
            if descriptor.is_write_only() {
                request.writable.push(buffer);
            } else if request.writable.is_empty() {
                request.readable.push(buffer);
            } else {
                return Err(broken("a buffer to read comes after one to write"));
            }
            if request.readable.len() + request.writable.len() > MAX_BUFFERS {
                return Err(broken("a request has too many buffers"));
            }
        }
        Ok(request)
    }

    /// Returns where the buffers that the device writes are, in memory or not.
    pub(crate) fn writable_ranges(
        &self,
    ) -> impl Iterator<Item = (vm_memory::GuestAddress, u64)> + '_ {
        let buffers = self.writable.iter();
        buffers.map(|buffer| (buffer.address, buffer.length as u64))
    }

    /// Returns the buffers that the device reads, as far as they are in memory.
    pub(crate) fn readable<'a>(&self, memory: &'a Memory) -> Result<Slices<'a>, BrokenDriver> {
        Slices::of(memory, &self.readable)
    }

    /// Returns the buffers that the device writes.
    pub(crate) fn writable<'a>(&self, memory: &'a Memory) -> Result<Slices<'a>, BrokenDriver> {
        Slices::of(memory, &self.writable)
    }
}

/// Buffers of guest memory one after the other, read or written from the front.
#[derive(Clone, Debug)]
pub(crate) struct Slices<'a> {
    slices: Vec<VolatileSlice<'a>>,
}

impl<'a> Slices<'a> {
    fn of(memory: &'a Memory, buffers: &[Buffer]) -> Result<Self, BrokenDriver> {
        let slices: Result<Vec<_>, _> = buffers
            .iter()
            .filter(|buffer| buffer.length > 0)
            .map(|buffer| memory.get_slice(buffer.address, buffer.length))
            .collect();
        let slices = slices.map_err(|_| broken("a buffer is not in memory"))?;
        Ok(Self { slices })
    }

    /// Returns how many bytes are left.
    pub(crate) fn len(&self) -> u64 {
        self.slices.iter().map(|slice| slice.len() as u64).sum()
    }

    pub(crate) fn as_slices(&self) -> &[VolatileSlice<'a>] {
        &self.slices
    }

    /// Takes the first `length` bytes off, or all where there are fewer.
    pub(crate) fn split_off_front(&mut self, length: u64) -> Self {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        let mut whole = 0;
        while let Some(slice) = self.slices.get(whole)
            && slice.len() <= left
        {
            left -= slice.len();
            whole += 1;
        }
        let mut front: Vec<_> = self.slices.drain(..whole).collect();
        if let Some(first) = self.slices.first_mut()
            && left > 0
        {
            let halves = first.split_at(left);
            let (head, tail) = halves.expect("the place is inside of the slice");
            front.push(head);
            *first = tail;
        }
        Self { slices: front }
    }

    /// Takes the last `length` bytes off.
    pub(crate) fn split_off_back(&mut self, length: u64) -> Self {
        let front = self.split_off_front(self.len().saturating_sub(length));
        std::mem::replace(self, front)
    }

    /// Copies bytes out from the front. Returns how many there were.
    pub(crate) fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let count = slice.copy_to(&mut bytes[done..]);
            done += count;
        }
        done
    }

    /// Copies bytes in from the front. Returns how many there was room for.
    pub(crate) fn copy_from(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let count = slice.len().min(bytes.len() - done);
            slice.copy_from(&bytes[done..done + count]);
            done += count;
        }
        done
    }
}
