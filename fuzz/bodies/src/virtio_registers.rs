//! Accesses to the registers of a virtio device: any offset, any width, any order.
//!
//! What never changes is always the same; features that the device lacks are never agreed to; a
//! device that has stopped stays so until it is reset; and before it has been in use, memory is
//! not touched.

use std::io;
use std::os::unix::net::UnixStream;

use smolvm_vmm::fuzzing::Device;

use crate::script::Script;
use crate::virtio::MEMORY_BYTES;

// Registers (Virtio 1.3 §4.2.2), and what is always in them: "virt", the version, our vendor.
const CONSTANTS: [(u64, u32); 3] = [
    (0x000, 0x7472_6976),
    (0x004, 2),
    (0x00c, u32::from_le_bytes(*b"SMVM")),
];
const DEVICE_ID: u64 = 0x008;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SELECT: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const QUEUE_NOTIFY: u64 = 0x050;
const STATUS: u64 = 0x070;
const CONFIGURATION: u64 = 0x100;

// Device status (Virtio 1.3 §2.1).
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;

/// `VIRTIO_F_VERSION_1`, of the features' upper half.
const VERSION_1: u32 = 1;

/// Accesses of one input; more would only make it slower.
const MAX_ACCESSES: usize = 512;

/// Returns the device that the first byte says, its number, and the host's end, to be kept open.
fn device(kind: u8) -> (Device, u32, Option<UnixStream>) {
    let disk = |is_read_only| {
        let file = tempfile::tempfile().expect("a file");
        Device::block(file, is_read_only, MEMORY_BYTES)
    };
    let with_stream = |make: fn(UnixStream, u64) -> io::Result<Device>| {
        let (host, stream) = UnixStream::pair().expect("a pair of sockets");
        (make(stream, MEMORY_BYTES), Some(host))
    };
    let (id, (device, host)) = match kind % 6 {
        0 => (1, with_stream(Device::network)),
        1 => (2, (disk(false), None)),
        2 => (2, (disk(true), None)),
        3 => (3, with_stream(Device::console)),
        4 => (4, (Device::random(MEMORY_BYTES), None)),
        _ => (5, (Device::balloon(MEMORY_BYTES), None)),
    };
    (device.expect("memory for it"), id, host)
}

/// Accesses the registers of a device.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let Some(kind) = script.byte() else {
        return;
    };
    let (device, id, _host) = device(kind);
    // Nothing that a device would write by mistake, and indexes that would keep it busy.
    let memory = vec![kind | 1; usize::try_from(MEMORY_BYTES).expect("small")];
    device.write_memory(0, &memory);
    let (mut status, mut was_in_use) = (0, false);
    for _ in 0..MAX_ACCESSES {
        let Some(is_reset) = access(&device, &mut script) else {
            break;
        };
        let before = status;
        status = read(&device, STATUS);
        assert!(
            is_reset || status & NEEDS_RESET >= before & NEEDS_RESET,
            "it goes on"
        );
        was_in_use |= status & DRIVER_OK != 0;
        for (register, value) in CONSTANTS {
            assert_eq!(read(&device, register), value);
        }
        assert_eq!(read(&device, DEVICE_ID), id);
    }
    if !was_in_use {
        let mut after = vec![0; memory.len()];
        assert!(device.read_memory(0, &mut after) && after == memory);
    }
    write(&device, STATUS, 0);
    assert_eq!(read(&device, STATUS), 0);
    refuses_what_it_lacks(&device, script.word().unwrap_or(u32::MAX));
}

/// Does one access. Returns whether it was a reset, or nothing when there is none left.
fn access(device: &Device, script: &mut Script<'_>) -> Option<bool> {
    let (kind, offset) = (script.byte()?, u64::from(script.half()?) & 0xfff);
    // Most accesses are to registers, with their width.
    let offset = if kind & 0x80 == 0 {
        offset & 0x1fc
    } else {
        offset
    };
    let width = if kind & 0x40 == 0 { 4 } else { 1 << (kind & 3) };
    if kind & 0x20 == 0 {
        let bytes = script.word()?.to_le_bytes().repeat(2);
        let bytes = &bytes[..width];
        let is_doorbell = offset == QUEUE_NOTIFY && kind & 0x10 != 0;
        if is_doorbell {
            device.kick(usize::from(bytes[0]));
        } else {
            device.write_register(offset, bytes);
        }
        return Some(offset == STATUS && bytes == [0; 4]);
    }
    let mut data = [0xaa; 8];
    device.read_register(offset, &mut data[..width]);
    assert_eq!(data[width..], [0xaa; 8][width..]);
    if width != 4 && offset < CONFIGURATION {
        assert_eq!(data[..width], [0; 8][..width], "registers have four bytes");
    }
    Some(false)
}

/// Asks for features of which the device lacks some, and asserts that it does not agree.
fn refuses_what_it_lacks(device: &Device, wanted: u32) {
    write(device, DEVICE_FEATURES_SELECT, 0);
    let offered = read(device, DEVICE_FEATURES);
    write(device, DEVICE_FEATURES_SELECT, 1);
    assert_ne!(read(device, DEVICE_FEATURES) & VERSION_1, 0);
    write(device, DRIVER_FEATURES_SELECT, 0);
    write(device, DRIVER_FEATURES, wanted);
    write(device, DRIVER_FEATURES_SELECT, 1);
    write(device, DRIVER_FEATURES, VERSION_1);
    write(device, STATUS, 1 | 2 | FEATURES_OK);
    let is_agreed = read(device, STATUS) & FEATURES_OK != 0;
    assert_eq!(is_agreed, wanted & !offered == 0);
}

fn read(device: &Device, register: u64) -> u32 {
    let mut word = [0; 4];
    device.read_register(register, &mut word);
    u32::from_le_bytes(word)
}

fn write(device: &Device, register: u64, value: u32) {
    device.write_register(register, &value.to_le_bytes());
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let write = |register: u16, value: u32| {
        let [low, high] = register.to_le_bytes();
        let mut access = vec![0, low, high];
        access.extend(value.to_le_bytes());
        access
    };
    let bring_up = [
        write(0x070, 1),
        write(0x070, 3),
        write(0x024, 1),
        write(0x020, 1),
        write(0x070, 11),
        write(0x030, 0),
        write(0x038, 8),
        write(0x080, 0x1000),
        write(0x090, 0x1400),
        write(0x0a0, 0x1800),
        write(0x044, 1),
        write(0x070, 15),
        // Reads of the configuration and of a register, of any width; the doorbell; a reset.
        vec![0xe1, 0x02, 0x01],
        vec![0x20, 0x60, 0x00],
        vec![0x10, 0x50, 0x00, 0, 0, 0, 0],
        write(0x064, 3),
        write(0x070, 0),
    ];
    let not_ready = [
        write(0x020, 0),
        write(0x024, 1),
        write(0x020, 1),
        write(0x070, 15),
    ];
    let inputs = (0..6).map(|kind| [&[kind][..], &bring_up.concat()].concat());
    let others = (0..6).map(|kind| [&[kind][..], &not_ready.concat()].concat());
    inputs.chain(others).collect()
}
