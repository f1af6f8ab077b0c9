//! What the processors find when they leave the guest: ports and registers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use smolvm_protocol::vmm::MachineStats;

use crate::boot::layout::{VIRTIO_REGISTERS, VIRTIO_REGISTERS_BYTES};
use crate::devices::power::{self, PowerRequest};
use crate::devices::serial::SerialPort;
use crate::devices::virtio::block;
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
        let mut stats = MachineStats {
            port_exits: self.port_exits.load(Ordering::Relaxed),
            mmio_exits: self.mmio_exits.load(Ordering::Relaxed),
            other_exits: self.other_exits.load(Ordering::Relaxed),
            ..MachineStats::default()
        };
        for (device, traffic) in self.slots.iter().filter_map(Slot::traffic) {
            match device {
                block::DEVICE_ID => traffic.add_to(&mut stats.disks),
                _ => traffic.add_to(&mut stats.network),
            }
        }
        stats
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use smolvm_protocol::vmm::NetworkInterface;
    use vm_memory::{Bytes as _, GuestAddress};
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::boot::layout::SERIAL_PORT;
    use crate::devices::virtio::balloon::BalloonDevice;
    use crate::devices::virtio::block::BlockDevice;
    use crate::devices::virtio::console::ConsoleDevice;
    use crate::devices::virtio::device::{DeviceInterrupt, VirtioDevice};
    use crate::devices::virtio::network::NetworkDevice;
    use crate::devices::virtio::random::RandomDevice;
    use crate::memory::Memory;

    const MEMORY_BYTES: usize = 1 << 20;

    /// Enough that every register of every device has had many values.
    const ACCESSES: u32 = 300_000;

    /// A machine's devices; nobody reads what they send to the host.
    fn platform(memory: &Memory) -> (Platform, Vec<UnixStream>) {
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let mut peers = Vec::new();
        let mut stream = || {
            let (ours, peer) = UnixStream::pair().unwrap();
            peers.push(peer);
            ours
        };
        let mut disk = tempfile::tempfile().unwrap();
        disk.write_all(&[1; 8192]).unwrap();
        let interface = NetworkInterface {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
        };
        let devices: [Box<dyn VirtioDevice>; 5] = [
            Box::new(BlockDevice::new(disk, "disk", false).unwrap()),
            Box::new(ConsoleDevice::new("agent", stream()).unwrap()),
            Box::new(RandomDevice),
            Box::new(BalloonDevice),
            Box::new(NetworkDevice::new(interface, stream()).unwrap()),
        ];
        let slots = devices.map(|device| {
            Slot::new(device, memory.clone(), DeviceInterrupt::new(event())).unwrap()
        });
        let serial = SerialPort::new(event(), stream()).unwrap();
        (Platform::new(serial, slots.into()), peers)
    }

    /// Numbers that are the same in every run (Marsaglia, "Xorshift RNGs", 2003).
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
    }

    #[test]
    fn garbage_in_every_register_leaves_devices_that_can_be_reset() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let (platform, _peers) = platform(&memory);
        let mut numbers = Numbers(0x5eed);
        for place in (0..MEMORY_BYTES as u64).step_by(8) {
            memory
                .write_obj(numbers.next(), GuestAddress(place))
                .unwrap();
        }
        for _ in 0..ACCESSES {
            let number = numbers.next();
            let mut data = numbers.next().to_le_bytes();
            // Rings and buffers are more often in memory when their addresses are small.
            data[2..].fill(0);
            let [width, _, _, _, low, high, ..] = number.to_le_bytes();
            let data = &mut data[..1 << (width % 4)];
            // Five devices, a place without one, and the first 1,024 bytes of each: registers.
            let (page, offset) = ((number >> 8) % 6, (number >> 16) & 0x3ff);
            let address = VIRTIO_REGISTERS + page * VIRTIO_REGISTERS_BYTES + offset;
            let port = u16::from_le_bytes([low, high]);
            match number >> 62 {
                0 => platform.write_register(address, data),
                1 => platform.read_register(address, data),
                2 => drop(platform.write_port(port, data)),
                _ => platform.read_port(port, data),
            }
        }
        for index in 0..5 {
            let base = VIRTIO_REGISTERS + index * VIRTIO_REGISTERS_BYTES;
            platform.write_register(base + 0x070, &[0; 4]);
            let mut word = [0xff; 4];
            platform.read_register(base + 0x070, &mut word);
            assert_eq!(word, [0; 4], "device {index}");
            platform.read_register(base, &mut word);
            assert_eq!(&word, b"virt", "device {index}");
        }
        assert_eq!(
            platform.stats().port_exits + platform.stats().mmio_exits,
            u64::from(ACCESSES) + 15
        );
    }

    #[test]
    fn flood_on_the_serial_port_is_lost_where_nobody_reads_and_never_waits() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let (platform, _peers) = platform(&memory);
        // More than any socket holds.
        for _ in 0..4 << 20 {
            assert_eq!(platform.write_port(SERIAL_PORT, b"x"), None);
        }
        // Line status: there is room for the next (16550 data sheet, LSR bit 5).
        let mut status = [0];
        platform.read_port(SERIAL_PORT + 5, &mut status);
        assert_ne!(status[0] & 1 << 5, 0);
    }
}
