//! Virtqueues (Virtio 1.3 §2.7) as they lie in memory, read again to judge the device by.

use std::collections::HashMap;
use std::ops::Range;

use super::{MEMORY_BYTES, QueueSetUp};

const DESCRIPTOR_BYTES: u64 = 16;
const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;

/// Ranges that are looked at for one step. An input with more of them is not judged.
const MAX_RANGES: usize = 4096;

/// A queue in use.
#[derive(Debug)]
pub(super) struct Ring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    /// Index of the next request to be given back; unknown once that cannot be judged.
    next_used: Option<u16>,
    /// Index up to which there are requests.
    offered: u16,
    /// For each request that is not given back: the chains that it has been, since a driver may
    /// change it, as their first descriptors and the room in them.
    made: HashMap<u16, Vec<(u16, u64)>>,
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(memory: &[u8], address: u64) -> Option<Self> {
        let start = usize::try_from(address).ok()?;
        let bytes = memory.get(start..)?.first_chunk::<16>()?;
        let (address, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (flags, next) = rest.split_first_chunk()?;
        Some(Self {
            address: u64::from_le_bytes(*address),
            length: u32::from_le_bytes(*length),
            flags: u16::from_le_bytes(*flags),
            next: u16::from_le_bytes(next.try_into().ok()?),
        })
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Returns what of its buffer is memory.
    fn range(&self) -> Range<u64> {
        clip(self.address, self.length.into())
    }
}

fn clip(address: u64, length: u64) -> Range<u64> {
    let start = address.min(MEMORY_BYTES);
    start..address.saturating_add(length).min(MEMORY_BYTES)
}

fn half(memory: &[u8], address: u64) -> u16 {
    let start = usize::try_from(address).expect("in memory");
    u16::from_le_bytes([memory[start], memory[start + 1]])
}

/// Returns whether all of a queue is memory.
pub(super) fn are_in_memory(queue: &QueueSetUp) -> bool {
    let size = u64::from(queue.size);
    let bytes = [DESCRIPTOR_BYTES * size, 6 + 2 * size, 6 + 8 * size];
    let mut parts = queue.addresses.into_iter().zip(bytes);
    parts.all(|(address, bytes)| {
        let range = clip(address, bytes);
        range.end - range.start == bytes
    })
}

impl Ring {
    /// Returns a queue that a driver has just set up, all of it in memory.
    pub(super) fn new(queue: &QueueSetUp) -> Self {
        let [descriptors, available, used] = queue.addresses;
        Self {
            size: queue.size,
            descriptors,
            available,
            used,
            next_used: Some(0),
            offered: 0,
            made: HashMap::new(),
        }
    }

    fn table(&self) -> Range<u64> {
        clip(self.descriptors, DESCRIPTOR_BYTES * u64::from(self.size))
    }

    fn available(&self) -> Range<u64> {
        clip(self.available, 6 + 2 * u64::from(self.size))
    }

    fn used(&self) -> Range<u64> {
        clip(self.used, 6 + 8 * u64::from(self.size))
    }

    /// Returns where the index of what has been given back is, and what it must be now.
    pub(super) fn used_index(&self) -> Option<(u64, u16)> {
        Some((self.used + 2, self.next_used?))
    }

    /// Notes which requests there are.
    pub(super) fn look(&mut self, memory: &[u8]) {
        let Some(next_used) = self.next_used else {
            return;
        };
        self.offered = half(memory, self.available + 2);
        let pending = self.offered.wrapping_sub(next_used);
        // One can be at work while the ring is full.
        if pending > self.size.saturating_add(1) {
            return;
        }
        for offset in 0..pending {
            let index = next_used.wrapping_add(offset);
            let entry = self.available + 4 + 2 * u64::from(index % self.size);
            let head = half(memory, entry);
            let chain = (head, self.room(memory, head));
            let made = self.made.entry(index).or_default();
            if !made.contains(&chain) {
                made.push(chain);
            }
        }
    }

    /// Returns how many bytes the device may write into a chain.
    fn room(&self, memory: &[u8], head: u16) -> u64 {
        let (mut table, mut size, mut number) = (self.descriptors, u64::from(self.size), head);
        let (mut is_indirect, mut steps, mut room) = (false, 0, 0);
        while steps < size && u64::from(number) < size {
            let address = table.saturating_add(DESCRIPTOR_BYTES * u64::from(number));
            let Some(descriptor) = Descriptor::read(memory, address) else {
                break;
            };
            if descriptor.has(FLAG_INDIRECT) {
                if is_indirect {
                    break;
                }
                (table, number, steps, is_indirect) = (descriptor.address, 0, 0, true);
                size = u64::from(descriptor.length) / DESCRIPTOR_BYTES;
                continue;
            }
            if descriptor.has(FLAG_WRITE) {
                room += u64::from(descriptor.length);
            }
            if !descriptor.has(FLAG_NEXT) {
                break;
            }
            number = descriptor.next;
            steps += 1;
        }
        room
    }

    /// Asserts that what has been given back are the requests made, in their order.
    pub(super) fn assert_consistent(&mut self, memory: &[u8]) {
        let Some(next_used) = self.next_used else {
            return;
        };
        let now = half(memory, self.used + 2);
        let done = now.wrapping_sub(next_used);
        if done == 0 {
            return;
        }
        let offered = self.offered.wrapping_sub(next_used);
        assert!(done <= offered, "{done} given back, {offered} made");
        for offset in 0..done {
            let index = next_used.wrapping_add(offset);
            let chains = self.made.remove(&index).unwrap_or_default();
            // Of a ring that has gone round, the beginning is overwritten.
            if done - offset <= self.size {
                let entry = self.used + 4 + 8 * u64::from(index % self.size);
                let (id, length) = (half(memory, entry), self.length(memory, entry));
                let is_one = |(head, room): &(u16, u64)| *head == id && length <= *room;
                let is_known = chains.iter().any(is_one);
                assert!(is_known, "{length} bytes for {id} given back: {chains:?}");
            }
        }
        self.next_used = Some(now);
    }

    fn length(&self, memory: &[u8], entry: u64) -> u64 {
        assert_eq!(half(memory, entry + 2), 0);
        u64::from(half(memory, entry + 4)) | u64::from(half(memory, entry + 6)) << 16
    }

    /// What the device does from now on is not known.
    pub(super) fn lose_track(&mut self) {
        self.next_used = None;
    }
}

/// Returns what a device may write, sorted and apart, or nothing when it may write what says so.
pub(super) fn writable(memory: &[u8], rings: &[Ring]) -> Option<Vec<Range<u64>>> {
    let mut writable: Vec<Range<u64>> = rings.iter().map(Ring::used).collect();
    let mut tables = Vec::new();
    for ring in rings {
        tables.extend([ring.table(), ring.available()]);
        for descriptor in descriptors(memory, ring.table()) {
            if descriptor.has(FLAG_INDIRECT) {
                tables.push(descriptor.range());
                let inner = descriptors(memory, descriptor.range());
                let inner = inner.filter(|inner| inner.has(FLAG_WRITE));
                writable.extend(inner.map(|inner| inner.range()).take(MAX_RANGES));
            } else if descriptor.has(FLAG_WRITE) {
                writable.push(descriptor.range());
            }
            if writable.len() > MAX_RANGES {
                return None;
            }
        }
    }
    writable.retain(|range| !range.is_empty());
    let is_shared = |used: &Range<u64>| {
        let sharers = writable.iter().filter(|range| overlap(range, used));
        sharers.count() > 1
    };
    let is_writable = |table: &Range<u64>| writable.iter().any(|range| overlap(range, table));
    if rings.iter().any(|ring| is_shared(&ring.used())) || tables.iter().any(is_writable) {
        return None;
    }
    writable.sort_by_key(|range| range.start);
    Some(writable)
}

const fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn descriptors(memory: &[u8], table: Range<u64>) -> impl Iterator<Item = Descriptor> + '_ {
    let size = usize::try_from(DESCRIPTOR_BYTES).expect("small");
    let addresses = table.step_by(size);
    addresses.map_while(move |address| Descriptor::read(memory, address))
}

/// Asserts that memory is the same but for `writable`.
pub(super) fn assert_untouched(before: &[u8], after: &[u8], writable: &[Range<u64>]) {
    let mut start = 0;
    let place = |address: u64| usize::try_from(address).expect("in memory");
    for range in writable {
        if range.start > start {
            let gap = place(start)..place(range.start);
            assert!(
                before[gap.clone()] == after[gap.clone()],
                "written within {gap:x?}"
            );
        }
        start = start.max(range.end);
    }
    let rest = place(start)..;
    assert!(
        before[rest.clone()] == after[rest.clone()],
        "written within {rest:x?}"
    );
}
