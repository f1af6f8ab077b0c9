//! What the processors find when they leave the guest: ports and registers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use smolvm_protocol::vmm::MachineStats;

use crate::boot::layout::{VIRTIO_REGISTERS, VIRTIO_REGISTERS_BYTES};
use crate::devices::power::{self, PowerRequest};
use crate::devices::serial::SerialPort;
use crate::devices::virtio::transport::Slot;

/// What is read where there is no device: lines that nobody drives are high.
const NOTHING: u8 = 0xff;

/// The machine's devices by their addresses.
pub(crate) struct Platform {
    /// Held for one access.
    serial: Mutex<SerialPort>,
    slots: Vec<Slot>,
    port_exits: AtomicU64,
    mmio_exits: AtomicU64,
    other_exits: AtomicU64,
}

impl Platform {
    pub(crate) const fn new(serial: SerialPort, slots: Vec<Slot>) -> Self {
        Self {
            serial: Mutex::new(serial),
            slots,
            port_exits: AtomicU64::new(0),
            mmio_exits: AtomicU64::new(0),
            other_exits: AtomicU64::new(0),
        }
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(crate) fn stats(&self) -> MachineStats {
        MachineStats {
            port_exits: self.port_exits.load(Ordering::Relaxed),
            mmio_exits: self.mmio_exits.load(Ordering::Relaxed),
            other_exits: self.other_exits.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count_other_exit(&self) {
        self.other_exits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        self.port_exits.fetch_add(1, Ordering::Relaxed);
        data.fill(NOTHING);
        if let (Some(register), [byte]) = (SerialPort::register(port), data) {
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            *byte = serial.read(register);
        }
    }

    /// The guest writes to a port; returns what it wants of the machine by that.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Option<PowerRequest> {
        self.port_exits.fetch_add(1, Ordering::Relaxed);
        let [byte] = data else {
            return None;
        };
        if let Some(register) = SerialPort::register(port) {
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            serial.write(register, *byte);
        }
        power::requested(port, *byte)
    }

    pub(crate) fn read_register(&self, address: u64, data: &mut [u8]) {
        self.mmio_exits.fetch_add(1, Ordering::Relaxed);
        match self.slot_at(address) {
            Some((slot, offset)) => slot.read(offset, data),
            None => data.fill(NOTHING),
        }
    }

    pub(crate) fn write_register(&self, address: u64, data: &[u8]) {
        self.mmio_exits.fetch_add(1, Ordering::Relaxed);
        if let Some((slot, offset)) = self.slot_at(address) {
            slot.write(offset, data);
        }
    }

    fn slot_at(&self, address: u64) -> Option<(&Slot, u64)> {
        let offset = address.checked_sub(VIRTIO_REGISTERS)?;
        let index = usize::try_from(offset / VIRTIO_REGISTERS_BYTES).ok()?;
        let slot = self.slots.get(index)?;
        Some((slot, offset % VIRTIO_REGISTERS_BYTES))
    }
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Platform")
            .field("slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}
