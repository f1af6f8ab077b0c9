//! A driver as tests play it: it sets a device up through its registers and makes requests.

use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::device::{DeviceInterrupt, Turn, VirtioDevice};
use super::transport::Slot;
use crate::memory::{GuestRam, Memory};

/// Places of each queue that the driver uses, where the device has as many.
pub(crate) const QUEUE_SIZE: u16 = 16;

/// What each queue has of memory: descriptors, rings.
const QUEUE_BYTES: u64 = 0x1000;
const AVAILABLE_OFFSET: u64 = 0x400;
const USED_OFFSET: u64 = 0x800;

/// Where buffers begin.
const BUFFERS: u64 = 0x10_0000;

/// Size of the guest's memory.
pub(crate) const MEMORY_BYTES: u64 = 4 << 20;

// Registers (Virtio 1.3 §4.2.2).
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SELECT: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_SIZE_MAX: u64 = 0x034;
const QUEUE_SIZE_REGISTER: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
pub(crate) const STATUS: u64 = 0x070;
const QUEUE_DESCRIPTORS: u64 = 0x080;
const QUEUE_DRIVER: u64 = 0x090;
const QUEUE_DEVICE: u64 = 0x0a0;

/// `VIRTIO_F_EVENT_IDX`, which this driver does not know.
const EVENT_IDX: u32 = 1 << 29;

pub(crate) const DESCRIPTOR_NEXT: u16 = 1;
pub(crate) const DESCRIPTOR_WRITE: u16 = 2;
pub(crate) const DESCRIPTOR_INDIRECT: u16 = 4;

/// The status of a device that is in use, and of one that has stopped.
pub(crate) const IN_USE: u32 = 1 | 2 | 8 | 4;
pub(crate) const NEEDS_RESET: u32 = 64;

/// A buffer of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// For the device to read.
    Read(&'a [u8]),
    /// For the device to write so many bytes.
    Write(usize),
}

/// A driver and its device.
pub(crate) struct Driver {
    pub(crate) memory: Memory,
    pub(crate) slot: Slot,
    interrupt: EventFd,
    /// Requests made on each queue.
    made: Vec<u16>,
    /// Requests seen done on each queue.
    seen: Vec<u16>,
    next_buffer: u64,
}

impl Driver {
    /// Brings a device into use.
    pub(crate) fn new(device: impl VirtioDevice + 'static) -> Self {
        let memory = GuestRam::new(MEMORY_BYTES).unwrap().memory().clone();
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = event.try_clone().unwrap();
        let slot = Slot::new(
            Box::new(device),
            memory.clone(),
            DeviceInterrupt::new(event),
        )
        .unwrap();
        let queues = slot.queue_count();
        let driver = Self {
            memory,
            slot,
            interrupt,
            made: vec![0; queues],
            seen: vec![0; queues],
            next_buffer: BUFFERS,
        };
        driver.negotiate();
        for queue in 0..queues {
            driver.set_up_queue(queue);
        }
        driver.write(STATUS, IN_USE);
        driver
    }

    pub(crate) fn negotiate(&self) {
        self.write(STATUS, 1);
        self.write(STATUS, 1 | 2);
        for half in 0..2 {
            self.write(DEVICE_FEATURES_SELECT, half);
            let mut features = self.read(DEVICE_FEATURES);
            if half == 0 {
                features &= !EVENT_IDX;
            }
            self.write(DRIVER_FEATURES_SELECT, half);
            self.write(DRIVER_FEATURES, features);
        }
        self.write(STATUS, 1 | 2 | 8);
    }

    fn set_up_queue(&self, queue: usize) {
        let base = u32::try_from(queue_base(queue)).unwrap();
        self.write(QUEUE_SELECT, u32::try_from(queue).unwrap());
        let size = self.read(QUEUE_SIZE_MAX).min(QUEUE_SIZE.into());
        self.write(QUEUE_SIZE_REGISTER, size);
        for (register, offset) in [
            (QUEUE_DESCRIPTORS, 0),
            (QUEUE_DRIVER, AVAILABLE_OFFSET),
            (QUEUE_DEVICE, USED_OFFSET),
        ] {
            self.write(register, base + u32::try_from(offset).unwrap());
            self.write(register + 4, 0);
        }
        self.write(QUEUE_READY, 1);
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.slot.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    pub(crate) fn write(&self, offset: u64, value: u32) {
        self.slot.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn status(&self) -> u32 {
        self.read(STATUS)
    }

    /// Returns whether there was an interrupt since the last call.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.interrupt.read().is_ok()
    }

    /// Makes a request and rings the doorbell. Returns where its buffers to write are.
    pub(crate) fn submit(&mut self, queue: usize, parts: &[Part<'_>]) -> Vec<(u64, usize)> {
        let base = queue_base(queue);
        let made = self.made[queue];
        // Each request has its own descriptors until they are used up, which tests do not do.
        let first = made * 4 % QUEUE_SIZE;
        assert!(parts.len() <= 4, "four buffers are enough for tests");
        let mut writable = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let address = self.next_buffer;
            let (length, mut flags) = match part {
                Part::Read(bytes) => {
                    self.memory
                        .write_slice(bytes, GuestAddress(address))
                        .unwrap();
                    (bytes.len(), 0)
                }
                Part::Write(length) => {
                    writable.push((address, *length));
                    (*length, DESCRIPTOR_WRITE)
                }
            };
            self.next_buffer += (length as u64).next_multiple_of(64);
            let number = first + u16::try_from(index).unwrap();
            if index + 1 < parts.len() {
                flags |= DESCRIPTOR_NEXT;
            }
            let length = u32::try_from(length).unwrap();
            self.descriptor(base, number, (address, length), flags, number + 1);
        }
        self.offer(queue, first);
        writable
    }

    /// Writes a descriptor into the table at `table`; `buffer` is its address and its length.
    pub(crate) fn descriptor(
        &self,
        table: u64,
        number: u16,
        buffer: (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let descriptor = table + u64::from(number) * 16;
        self.put(descriptor, buffer.0);
        self.put(descriptor + 8, buffer.1);
        self.put(descriptor + 12, flags);
        self.put(descriptor + 14, next);
    }

    /// Makes the chain that starts with this descriptor a request, and rings the doorbell.
    pub(crate) fn offer(&mut self, queue: usize, head: u16) {
        let made = self.made[queue];
        let ring = queue_base(queue) + AVAILABLE_OFFSET;
        self.put(ring + 4 + 2 * u64::from(made % QUEUE_SIZE), head);
        self.made[queue] = made + 1;
        self.put(ring + 2, made + 1);
        self.kick(queue);
    }

    /// Rings the doorbell of a queue.
    pub(crate) fn kick(&self, queue: usize) {
        assert_eq!(self.slot.kicked(queue), Turn::Done);
    }

    /// Tells the device that its source is ready.
    pub(crate) fn source_ready(&self) {
        assert_eq!(self.slot.source_ready(), Turn::Done);
    }

    pub(crate) fn put<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    /// Returns how many bytes the next request that is done has, if one is.
    pub(crate) fn done(&mut self, queue: usize) -> Option<u32> {
        let ring = queue_base(queue) + USED_OFFSET;
        let count: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        let seen = self.seen[queue];
        if count == seen {
            return None;
        }
        self.seen[queue] = seen + 1;
        let entry = ring + 4 + 8 * u64::from(seen % QUEUE_SIZE);
        Some(self.memory.read_obj(GuestAddress(entry + 4)).unwrap())
    }

    /// Returns bytes of the guest's memory.
    pub(crate) fn bytes(&self, (address, length): (u64, usize)) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Makes a request that is done at once, and returns what its buffers to write have.
    pub(crate) fn request(&mut self, queue: usize, parts: &[Part<'_>]) -> Vec<Vec<u8>> {
        let writable = self.submit(queue, parts);
        assert!(self.done(queue).is_some(), "the request is not done");
        writable
            .into_iter()
            .map(|buffer| self.bytes(buffer))
            .collect()
    }
}

/// Returns where a queue's descriptors are.
pub(crate) fn queue_base(queue: usize) -> u64 {
    0x1000 + queue as u64 * QUEUE_BYTES
}
