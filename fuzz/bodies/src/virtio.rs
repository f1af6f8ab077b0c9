//! A hostile driver of a virtio device: the steps of an input write its memory and ring its bells.
//!
//! ```text
//!   `Guest`       the driver: brings the device up, does one step after the other
//!   [`rings`]     what the device may write, and what it has given back, by another reading of
//!                 the same memory
//!   `Host`        the other end: a file, a stream, or nothing
//! ```
//!
//! After each step the device has written nothing that no descriptor allows, and its used rings
//! have the requests that were made, each once and in their order, with no more bytes than there
//! was room for. Where a driver has the device write over the descriptors themselves, what it
//! allows changes while it is looked at, and that step is not judged.

mod rings;

use smolvm_vmm::fuzzing::Device;

use crate::script::Script;
use rings::Ring;

/// The guest's memory. Small, so that numbers of 16 bits reach most of it, and comparing is quick.
pub(crate) const MEMORY_BYTES: u64 = 128 << 10;

// Registers (Virtio 1.3 §4.2.2).
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SELECT: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_SIZE_MAX: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_ADDRESSES: [u64; 3] = [0x080, 0x090, 0x0a0];

/// The status of a driver that has done all steps up to the features, and the last one.
const FEATURES_OK: u32 = 1 | 2 | 8;
const IN_USE: u32 = FEATURES_OK | 4;
const NEEDS_RESET: u32 = 64;

/// `VIRTIO_F_EVENT_IDX`.
const EVENT_IDX: u32 = 1 << 29;

/// Steps of one input; more would only make it slower.
const MAX_STEPS: usize = 256;

// Steps.
const STEP_DESCRIPTOR: u8 = 0;
const STEP_OFFER: u8 = 1;
const STEP_INDEX: u8 = 2;
const STEP_WRITE: u8 = 3;
const STEP_FILL: u8 = 4;
const STEP_TABLE: u8 = 5;
const STEP_KICK: u8 = 6;
const STEP_HOST: u8 = 7;
const STEP_SOURCE: u8 = 8;
const STEP_ACKNOWLEDGE: u8 = 9;
const STEP_RESTART: u8 = 10;
const STEPS: u8 = 11;

/// The other end of a device.
pub(crate) trait Host {
    /// Does one of the things that a host does.
    fn act(&mut self, kind: u8, bytes: &[u8]);

    /// Panics when the host has found what must not be.
    fn check(&mut self);
}

/// A device that has nothing at its other end.
pub(crate) struct NoHost;

impl Host for NoHost {
    fn act(&mut self, _kind: u8, _bytes: &[u8]) {}

    fn check(&mut self) {}
}

/// Drives a device as the input says.
pub(crate) fn run(device: Device, host: &mut dyn Host, input: &[u8]) {
    let mut script = Script::new(input);
    let Some(set_up) = SetUp::read(&mut script, device.queue_count()) else {
        return;
    };
    let mut guest = Guest {
        device,
        set_up,
        rings: Vec::new(),
    };
    guest.restart();
    for _ in 0..MAX_STEPS {
        if guest.step(&mut script, host).is_none() {
            break;
        }
        host.check();
    }
}

/// How the driver brings its device up.
struct SetUp {
    has_event_idx: bool,
    queues: Vec<QueueSetUp>,
}

struct QueueSetUp {
    is_ready: bool,
    size: u16,
    /// Descriptors, available ring, used ring.
    addresses: [u64; 3],
}

impl QueueSetUp {
    /// Returns whether a driver may ask for it, of a device that has at most `max_size` places.
    fn is_legal(&self, max_size: u32) -> bool {
        let [descriptors, available, used] = self.addresses;
        u32::from(self.size) <= max_size
            && descriptors.is_multiple_of(16)
            && available.is_multiple_of(2)
            && used.is_multiple_of(4)
            && (!self.is_ready || rings::are_in_memory(self))
    }
}

impl SetUp {
    fn read(script: &mut Script<'_>, queue_count: usize) -> Option<Self> {
        let has_event_idx = script.byte()? & 1 != 0;
        let queues: Option<Vec<_>> = (0..queue_count)
            .map(|_| {
                let shape = script.byte()?;
                Some(QueueSetUp {
                    is_ready: shape & 0x80 == 0,
                    size: 1 << (shape & 0xf),
                    addresses: [script.address()?, script.address()?, script.address()?],
                })
            })
            .collect();
        Some(Self {
            has_event_idx,
            queues: queues?,
        })
    }
}

struct Guest {
    device: Device,
    set_up: SetUp,
    rings: Vec<Ring>,
}

impl Guest {
    /// Resets the device and brings it up again.
    fn restart(&mut self) {
        self.write(STATUS, 0);
        assert_eq!(self.read(STATUS), 0);
        self.rings.clear();
        self.write(STATUS, 1 | 2);
        for half in 0..2 {
            self.write(DEVICE_FEATURES_SELECT, half);
            let mut features = self.read(DEVICE_FEATURES);
            if half == 0 && !self.set_up.has_event_idx {
                features &= !EVENT_IDX;
            }
            self.write(DRIVER_FEATURES_SELECT, half);
            self.write(DRIVER_FEATURES, features);
        }
        self.write(STATUS, FEATURES_OK);
        assert_eq!(self.read(STATUS), FEATURES_OK);
        let mut is_legal = true;
        for (number, queue) in self.set_up.queues.iter().enumerate() {
            self.write(QUEUE_SELECT, u32::try_from(number).expect("a handful"));
            is_legal &= queue.is_legal(self.read(QUEUE_SIZE_MAX));
            self.write(QUEUE_SIZE, queue.size.into());
            for (register, address) in QUEUE_ADDRESSES.into_iter().zip(queue.addresses) {
                let bytes = address.to_le_bytes();
                self.device.write_register(register, &bytes[..4]);
                self.device.write_register(register + 4, &bytes[4..]);
            }
            if queue.is_ready {
                self.write(QUEUE_READY, 1);
            }
        }
        // A device with a queue that cannot be uses none of them.
        if is_legal {
            let ready = self.set_up.queues.iter().filter(|queue| queue.is_ready);
            self.rings = ready.map(Ring::new).collect();
        }
        self.act(|device| device.write_register(STATUS, &IN_USE.to_le_bytes()));
        assert!(is_legal || self.is_stopped());
    }

    fn is_stopped(&self) -> bool {
        self.read(STATUS) & NEEDS_RESET != 0
    }

    fn read(&self, register: u64) -> u32 {
        let mut word = [0; 4];
        self.device.read_register(register, &mut word);
        u32::from_le_bytes(word)
    }

    fn write(&self, register: u64, value: u32) {
        self.device.write_register(register, &value.to_le_bytes());
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(MEMORY_BYTES).expect("small")];
        assert!(self.device.read_memory(0, &mut bytes));
        bytes
    }

    /// Has the device work, and looks at what it has done.
    fn act(&mut self, work: impl FnOnce(&Device)) {
        // The device's own index: whatever a step has made of it, the device does not look at it.
        for (address, index) in self.rings.iter().filter_map(Ring::used_index) {
            self.put(address, &index.to_le_bytes());
        }
        let before = self.memory();
        if self.is_stopped() {
            self.rings.clear();
        }
        let writable = rings::writable(&before, &self.rings);
        for ring in &mut self.rings {
            ring.look(&before);
        }
        work(&self.device);
        let after = self.memory();
        match writable {
            Some(writable) => {
                rings::assert_untouched(&before, &after, &writable);
                for ring in &mut self.rings {
                    ring.assert_consistent(&after);
                }
            }
            None => {
                for ring in &mut self.rings {
                    ring.lose_track();
                }
            }
        }
    }

    /// Does the next step of the input, if there is one.
    fn step(&mut self, script: &mut Script<'_>, host: &mut dyn Host) -> Option<()> {
        match script.byte()? % STEPS {
            STEP_DESCRIPTOR => {
                let table = self.queue(script)?.addresses[0];
                self.descriptor(table, script)?;
            }
            STEP_TABLE => {
                let table = script.address()?;
                self.descriptor(table, script)?;
            }
            STEP_OFFER => {
                let (queue, head) = (self.queue(script)?, script.byte()?);
                let ring = queue.addresses[1];
                let mut index = [0; 2];
                if self.device.read_memory(ring.saturating_add(2), &mut index) {
                    let index = u16::from_le_bytes(index);
                    let entry = ring + 4 + 2 * u64::from(index % queue.size);
                    self.put(entry, &u16::from(head).to_le_bytes());
                    self.put(ring + 2, &index.wrapping_add(1).to_le_bytes());
                }
            }
            STEP_INDEX => {
                let ring = self.queue(script)?.addresses[1];
                self.put(ring.saturating_add(2), &script.half()?.to_le_bytes());
            }
            STEP_WRITE => self.put(script.address()?, script.bytes()?),
            STEP_FILL => {
                let (address, length) = (script.address()?, script.half()?);
                self.put(address, &vec![script.byte()?; length.into()]);
            }
            STEP_KICK => {
                let queue = usize::from(script.byte()?) % (self.set_up.queues.len() + 1);
                self.act(|device| device.kick(queue));
            }
            STEP_HOST => host.act(script.byte()?, script.bytes()?),
            STEP_SOURCE => self.act(Device::source_ready),
            STEP_ACKNOWLEDGE => self.write(INTERRUPT_ACKNOWLEDGE, script.byte()?.into()),
            _ => self.restart(),
        }
        Some(())
    }

    fn queue(&self, script: &mut Script<'_>) -> Option<&QueueSetUp> {
        let number = usize::from(script.byte()?) % self.set_up.queues.len();
        self.set_up.queues.get(number)
    }

    fn descriptor(&self, table: u64, script: &mut Script<'_>) -> Option<()> {
        let number = script.byte()?;
        let (address, length) = (script.address()?, script.length()?);
        let (flags, next) = (script.byte()?, script.byte()?);
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(u16::from(flags).to_le_bytes());
        bytes.extend(u16::from(next).to_le_bytes());
        self.put(table.saturating_add(16 * u64::from(number)), &bytes);
        Some(())
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.device.write_memory(address, bytes);
    }
}

/// Writes inputs: what a driver that obeys the rules does, for the fuzzer to begin with.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    bytes: Vec<u8>,
}

/// A buffer of a request: where it is, how long, and whether the device writes it.
pub(crate) type Part = (u16, u16, bool);

impl Steps {
    /// A device with so many queues of 8 places, each with a page of its own for them.
    pub(crate) fn new(queue_count: u8) -> Self {
        let mut bytes = vec![0];
        for queue in 1..=queue_count {
            bytes.push(3);
            let base = queue << 4;
            bytes.extend([0, base, 0, 0, base | 4, 0, 0, base | 8, 0]);
        }
        Self { bytes }
    }

    /// The driver wants to be notified from an index on.
    pub(crate) fn with_event_idx(mut self) -> Self {
        self.bytes[0] = 1;
        self
    }

    /// Writes bytes into the guest's memory.
    pub(crate) fn write(mut self, address: u16, bytes: &[u8]) -> Self {
        let [low, high] = address.to_le_bytes();
        let length = u8::try_from(bytes.len()).expect("short");
        self.bytes.extend([STEP_WRITE, low, high, 0, length]);
        self.bytes.extend(bytes);
        self
    }

    /// Makes a request of these parts and rings the queue's bell.
    pub(crate) fn request(mut self, queue: u8, head: u8, parts: &[Part]) -> Self {
        for (index, part) in parts.iter().enumerate() {
            self.bytes.extend([STEP_DESCRIPTOR, queue]);
            self.part(head, index, parts.len(), part);
        }
        self.offer(queue, head)
    }

    /// The same, with a table for the descriptors at `table`.
    pub(crate) fn indirect(mut self, queue: u8, table: u16, parts: &[Part]) -> Self {
        let [low, high] = table.to_le_bytes();
        for (index, part) in parts.iter().enumerate() {
            self.bytes.extend([STEP_TABLE, low, high, 0]);
            self.part(0, index, parts.len(), part);
        }
        let length = u8::try_from(16 * parts.len()).expect("few");
        self.bytes.extend([STEP_DESCRIPTOR, queue, 0, low, high, 0]);
        self.bytes.extend([length, 0, 0, 4, 0]);
        self.offer(queue, 0)
    }

    fn part(&mut self, head: u8, index: usize, count: usize, part: &Part) {
        let (address, length, is_write) = *part;
        let number = head + u8::try_from(index).expect("few");
        let flags = u8::from(index + 1 < count) | u8::from(is_write) << 1;
        let [low, high] = address.to_le_bytes();
        self.bytes.extend([number, low, high, 0]);
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend([0, flags, number + 1]);
    }

    fn offer(mut self, queue: u8, head: u8) -> Self {
        self.bytes.extend([STEP_OFFER, queue, head]);
        self.bytes.extend([STEP_KICK, queue]);
        self
    }

    /// Has the host do something, and tells the device.
    pub(crate) fn host(mut self, kind: u8, bytes: &[u8]) -> Self {
        let length = u8::try_from(bytes.len()).expect("short");
        self.bytes.extend([STEP_HOST, kind, length]);
        self.bytes.extend(bytes);
        self.bytes.push(STEP_SOURCE);
        self
    }

    /// Resets the device and brings it up again.
    pub(crate) fn restart(mut self) -> Self {
        self.bytes.extend([STEP_ACKNOWLEDGE, 3, STEP_RESTART]);
        self
    }

    pub(crate) fn input(self) -> Vec<u8> {
        self.bytes
    }
}
