//! The registers of a virtio device (Virtio 1.3 §4.2.2), and its way from reset to use.
//!
//! ```text
//!   reset ──> features agreed ──> queues set up ──> in use ──(driver breaks a rule)──> broken
//!     ^            │                   │               │                                 │
//!     └────────────┴───────────────────┴───────────────┴──── 0 written to the status ────┘
//! ```
//!
//! A processor's thread enters through [`Slot::read`] and [`Slot::write`], the device's own thread
//! through [`Slot::kicked`] and [`Slot::source_ready`]. One lock guards device and registers; the
//! interrupt's status is beside it, so that a driver's interrupt handler never waits for a device
//! at work.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::{Queue, QueueT as _};

use super::device::{BrokenDriver, DeviceInterrupt, Queues, Turn, VirtioDevice};
use super::traffic::TrafficCount;
use crate::memory::Memory;

/// "virt" (Virtio 1.3 §4.2.2, `MagicValue`).
const MAGIC: u32 = 0x7472_6976;

/// Version of the registers (`Version`); 1 is the old interface.
const VERSION: u32 = 2;

/// Ours: "SMVM" (`VendorID`).
const VENDOR: u32 = 0x4d56_4d53;

/// The device obeys Virtio 1.0 and later (Virtio 1.3 §6, `VIRTIO_F_VERSION_1`).
const FEATURE_VERSION_1: u64 = 1 << 32;

/// Each side says from where on it wants to be notified (`VIRTIO_F_EVENT_IDX`).
const FEATURE_EVENT_IDX: u64 = 1 << 29;

/// A descriptor can refer to a table of descriptors (`VIRTIO_F_INDIRECT_DESC`).
const FEATURE_INDIRECT: u64 = 1 << 28;

// Device status (Virtio 1.3 §2.1).
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_NEEDS_RESET: u32 = 64;

/// Offsets of the registers (Virtio 1.3 §4.2.2, table 4.1).
mod register {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(super) const QUEUE_SELECT: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACKNOWLEDGE: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESCRIPTORS_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESCRIPTORS_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const CONFIGURATION_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIGURATION: u64 = 0x100;
}

/// Offset of the register that drivers ring (`QueueNotify`).
pub(crate) const DOORBELL: u64 = register::QUEUE_NOTIFY;

/// A virtio device in the machine.
pub(crate) struct Slot {
    interrupt: Arc<DeviceInterrupt>,
    /// Guards the device, its registers and its queues. Taken last, held for one access or for
    /// one piece of work.
    transport: Mutex<Transport>,
    device_id: u32,
    queue_count: usize,
    traffic: Option<Arc<TrafficCount>>,
    /// A copy of the device's source, which does not change.
    source: Option<OwnedFd>,
}

impl Slot {
    /// Puts a device into the machine.
    pub(crate) fn new(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        interrupt: Arc<DeviceInterrupt>,
    ) -> std::io::Result<Self> {
        let source = device.source();
        let source = source
            .map(|source| source.try_clone_to_owned())
            .transpose()?;
        Ok(Self {
            device_id: device.id(),
            queue_count: device.queue_sizes().len(),
            traffic: device.traffic(),
            transport: Mutex::new(Transport::new(device, memory, interrupt.clone())),
            interrupt,
            source,
        })
    }

    pub(crate) const fn queue_count(&self) -> usize {
        self.queue_count
    }

    /// Returns the device's number, and where it counts what it passes on.
    pub(crate) fn traffic(&self) -> Option<(u32, &TrafficCount)> {
        let traffic = self.traffic.as_deref()?;
        Some((self.device_id, traffic))
    }

    /// Returns what of the host the device waits for.
    pub(crate) fn source(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.source.as_ref().map(OwnedFd::as_fd)
    }

    fn transport(&self) -> MutexGuard<'_, Transport> {
        // What a panic may have left is a device in a legal, if old, state.
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest reads `data.len()` bytes of the registers.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= register::CONFIGURATION {
            self.transport().read_configuration(offset, data);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = match offset {
                register::INTERRUPT_STATUS => self.interrupt.status(),
                _ => self.transport().read(offset),
            }
            .to_le_bytes();
        }
    }

    /// The guest writes to the registers.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(word);
        match offset {
            register::INTERRUPT_ACKNOWLEDGE => self.interrupt.acknowledge(value),
            // Only when KVM does not ring the doorbell itself.
            register::QUEUE_NOTIFY => {
                // A turn is more than an honest driver needs, and this is a processor's thread.
                let _given_up = self.kicked(value as usize);
            }
            _ => self.transport().write(offset, value),
        }
    }

    /// The guest has rung the doorbell of a queue.
    pub(crate) fn kicked(&self, queue: usize) -> Turn {
        self.transport()
            .work(|device, queues| device.kicked(queue, queues))
    }

    /// The device's source is ready.
    pub(crate) fn source_ready(&self) -> Turn {
        self.transport()
            .work(|device, queues| device.source_ready(queues))
    }
}

struct Transport {
    device: Box<dyn VirtioDevice>,
    memory: Memory,
    interrupt: Arc<DeviceInterrupt>,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    /// The driver has given a queue a size or an address that no queue can have.
    has_impossible_queue: bool,
    status: u32,
    /// Before the device is in use, and while it is broken.
    idle_queues: Vec<Queue>,
    /// While it is in use.
    queues: Option<Queues>,
}

impl Transport {
    fn new(device: Box<dyn VirtioDevice>, memory: Memory, interrupt: Arc<DeviceInterrupt>) -> Self {
        let idle_queues = new_queues(device.queue_sizes());
        Self {
            device,
            memory,
            interrupt,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            has_impossible_queue: false,
            status: 0,
            idle_queues,
            queues: None,
        }
    }

    fn features(&self) -> u64 {
        self.device.features() | FEATURE_VERSION_1 | FEATURE_EVENT_IDX | FEATURE_INDIRECT
    }

    fn queue(&self) -> Option<&Queue> {
        self.idle_queues.get(self.queue_select as usize)
    }

    fn read(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.device.id(),
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.features(), self.device_features_select),
            register::QUEUE_SIZE_MAX => {
                let sizes = self.device.queue_sizes();
                let size = sizes.get(self.queue_select as usize);
                size.copied().map_or(0, u32::from)
            }
            register::QUEUE_READY => match self.queues {
                // A device in use has all that it needs.
                Some(_) => 1,
                None => self.queue().is_some_and(Queue::ready).into(),
            },
            register::STATUS => self.status,
            // The configuration of no device changes.
            register::CONFIGURATION_GENERATION => 0,
            _ => 0,
        }
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset - register::CONFIGURATION).unwrap_or(usize::MAX);
        let configuration = self.device.configuration();
        let Some(found) = configuration.get(start..) else {
            return;
        };
        let count = found.len().min(data.len());
        data[..count].copy_from_slice(&found[..count]);
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            register::STATUS => self.set_status(value),
            register::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            register::QUEUE_SELECT => self.queue_select = value,
            register::DRIVER_FEATURES if self.status & STATUS_FEATURES_OK == 0 => {
                self.accept(value);
            }
            _ if self.queues.is_none() => self.set_up_queue(offset, value),
            _ => {}
        }
    }

    fn accept(&mut self, value: u32) {
        let value = u64::from(value);
        self.driver_features = match self.driver_features_select {
            0 => self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features & 0xffff_ffff | value << 32,
            _ => self.driver_features,
        };
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        let has_event_idx = self.driver_features & FEATURE_EVENT_IDX != 0;
        let Some(queue) = self.idle_queues.get_mut(self.queue_select as usize) else {
            return;
        };
        // A queue does not take what it cannot have, and keeps what it had.
        let is_taken = match offset {
            register::QUEUE_SIZE => {
                queue.set_size(u16::try_from(value).unwrap_or(0));
                u32::from(queue.size()) == value
            }
            register::QUEUE_READY => {
                queue.set_event_idx(has_event_idx);
                queue.set_ready(value == 1);
                true
            }
            register::QUEUE_DESCRIPTORS_LOW => {
                queue.set_desc_table_address(Some(value), None);
                half(queue.desc_table(), 0) == value
            }
            register::QUEUE_DESCRIPTORS_HIGH => {
                queue.set_desc_table_address(None, Some(value));
                true
            }
            register::QUEUE_DRIVER_LOW => {
                queue.set_avail_ring_address(Some(value), None);
                half(queue.avail_ring(), 0) == value
            }
            register::QUEUE_DRIVER_HIGH => {
                queue.set_avail_ring_address(None, Some(value));
                true
            }
            register::QUEUE_DEVICE_LOW => {
                queue.set_used_ring_address(Some(value), None);
                half(queue.used_ring(), 0) == value
            }
            register::QUEUE_DEVICE_HIGH => {
                queue.set_used_ring_address(None, Some(value));
                true
            }
            _ => true,
        };
        self.has_impossible_queue |= !is_taken;
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut value = value | self.status & STATUS_NEEDS_RESET;
        let is_legal = self.driver_features & !self.features() == 0
            && self.driver_features & FEATURE_VERSION_1 != 0;
        if value & STATUS_FEATURES_OK != 0 && !is_legal {
            // The driver reads it back and finds that it is not set (Virtio 1.3 §3.1.1).
            value &= !STATUS_FEATURES_OK;
        }
        self.status = value;
        let is_ready = STATUS_DRIVER_OK | STATUS_FEATURES_OK;
        if value & is_ready == is_ready && self.queues.is_none() && value & STATUS_NEEDS_RESET == 0
        {
            self.activate();
        }
    }

    fn activate(&mut self) {
        let memory = &self.memory;
        let is_valid = |queue: &Queue| !queue.ready() || queue.is_valid(memory);
        if self.has_impossible_queue || !self.idle_queues.iter().all(is_valid) {
            self.stop();
            return;
        }
        let queues = std::mem::take(&mut self.idle_queues);
        let interrupt = self.interrupt.clone();
        self.queues = Some(Queues::new(self.memory.clone(), queues, interrupt));
        self.device.activate(self.driver_features);
        // What came before the device could look. A turn is enough for all that is in a queue.
        for queue in 0..self.device.queue_sizes().len() {
            let _given_up = self.work(|device, queues| device.kicked(queue, queues));
        }
        let _given_up = self.work(|device, queues| device.source_ready(queues));
    }

    /// Has the device work, if it is in use; one whose driver breaks a rule stops.
    fn work(
        &mut self,
        work: impl FnOnce(&mut dyn VirtioDevice, &mut Queues) -> Result<(), BrokenDriver>,
    ) -> Turn {
        let Some(queues) = &mut self.queues else {
            return Turn::Done;
        };
        queues.begin_turn();
        if work(self.device.as_mut(), queues).is_err() {
            self.stop();
            return Turn::Done;
        }
        queues.end_turn()
    }

    /// Stops a device that cannot go on until its driver resets it (Virtio 1.3 §2.1.2).
    fn stop(&mut self) {
        if let Some(queues) = self.queues.take() {
            self.idle_queues = queues.into_queues();
        }
        self.status |= STATUS_NEEDS_RESET;
        self.interrupt.raise_configuration();
    }

    fn reset(&mut self) {
        if self.queues.take().is_some() || self.status & STATUS_NEEDS_RESET != 0 {
            self.device.reset();
        }
        self.idle_queues = new_queues(self.device.queue_sizes());
        self.interrupt.clear();
        self.status = 0;
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.has_impossible_queue = false;
    }
}

fn new_queues(sizes: &[u16]) -> Vec<Queue> {
    let new = |size: &u16| Queue::new(*size).expect("the sizes of ours are powers of two");
    sizes.iter().map(new).collect()
}

/// Returns the lower or the upper 32 bits.
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => (value & 0xffff_ffff) as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}
