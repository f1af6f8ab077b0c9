//! Drivers that break the rules, and what must come of it: an answer or a device that has stopped,
//! and never a byte of memory that the driver has not offered.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use smolvm_protocol::vmm::NetworkInterface;
use vm_memory::{Bytes as _, GuestAddress};

use super::balloon::BalloonDevice;
use super::block::BlockDevice;
use super::console::ConsoleDevice;
use super::device::{BrokenDriver, Queues, Turn, VirtioDevice};
use super::driver::{
    DESCRIPTOR_INDIRECT, DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Driver, IN_USE, MEMORY_BYTES,
    NEEDS_RESET, Part, QUEUE_SIZE, STATUS, queue_base,
};
use super::network::NetworkDevice;
use super::random::RandomDevice;

/// Where the tests have tables and buffers of their own.
const TABLE: u64 = 0x20_0000;
const BUFFER: u64 = 0x38_0000;

const TO_GUEST: usize = 0;
const CONTROL_FROM_GUEST: usize = 3;
const REPORTING: usize = 2;

/// Control messages of the console that wait for a buffer.
const MAX_WAITING: usize = 16;

const BLOCK_OUT: u32 = 1;
const BLOCK_DISCARD: u32 = 11;
const BLOCK_WRITE_ZEROES: u32 = 13;
const STATUS_OK: u8 = 0;
const STATUS_IO_ERROR: u8 = 1;

fn disk() -> Driver {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[1; 8192]).unwrap();
    Driver::new(BlockDevice::new(file, "disk", false).unwrap())
}

fn console() -> (Driver, UnixStream) {
    let (host, stream) = UnixStream::pair().unwrap();
    let driver = Driver::new(ConsoleDevice::new("agent", stream).unwrap());
    host.set_nonblocking(true).unwrap();
    (driver, host)
}

fn block_header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// Tells the console's port that a program has it open, or not.
fn say_open(driver: &mut Driver, port: u32, is_open: u8) {
    let message = [&port.to_le_bytes()[..], &[6, 0, is_open, 0]].concat();
    driver.request(CONTROL_FROM_GUEST, &[Part::Read(&message)]);
}

fn is_stopped(driver: &Driver) -> bool {
    driver.status() & NEEDS_RESET != 0
}

#[test]
fn queue_that_is_not_ready_is_not_touched() {
    let mut driver = disk();
    driver.write(STATUS, 0);
    driver.negotiate();
    let beginning = [0xff, 0xff, 0, 0];
    driver
        .memory
        .write_slice(&beginning, GuestAddress(0))
        .unwrap();
    driver.was_interrupted();
    driver.write(STATUS, IN_USE);
    driver.kick(0);
    assert_eq!(driver.bytes((0, 4)), beginning);
    assert!(!driver.was_interrupted());
    // What lies where its ring would be is no request: looking for it must end.
    driver.put(2, 1_u16);
    driver.kick(0);
    assert!(!is_stopped(&driver));
    assert_eq!(driver.done(0), None);
}

#[test]
fn table_of_descriptors_is_one_request() {
    let mut driver = Driver::new(RandomDevice);
    driver.descriptor(TABLE, 0, (BUFFER, 8), DESCRIPTOR_WRITE | DESCRIPTOR_NEXT, 1);
    driver.descriptor(TABLE, 1, (BUFFER + 64, 8), DESCRIPTOR_WRITE, 0);
    driver.descriptor(queue_base(0), 0, (TABLE, 32), DESCRIPTOR_INDIRECT, 0);
    driver.offer(0, 0);
    assert_eq!(driver.done(0), Some(16));
}

#[test]
fn table_within_a_table_is_not_followed() {
    let mut driver = Driver::new(RandomDevice);
    driver.descriptor(TABLE, 0, (BUFFER, 8), DESCRIPTOR_WRITE | DESCRIPTOR_NEXT, 1);
    driver.descriptor(TABLE, 1, (TABLE + 64, 16), DESCRIPTOR_INDIRECT, 0);
    driver.descriptor(TABLE + 64, 0, (BUFFER + 64, 8), DESCRIPTOR_WRITE, 0);
    driver.descriptor(queue_base(0), 0, (TABLE, 32), DESCRIPTOR_INDIRECT, 0);
    driver.offer(0, 0);
    assert_eq!(driver.done(0), Some(8));
    assert_eq!(driver.bytes((BUFFER + 64, 8)), [0; 8]);
}

#[test]
fn chain_that_goes_in_circles_ends() {
    let mut driver = Driver::new(RandomDevice);
    let flags = DESCRIPTOR_WRITE | DESCRIPTOR_NEXT;
    driver.descriptor(queue_base(0), 0, (BUFFER, 16), flags, 0);
    driver.offer(0, 0);
    // The device's queue has 8 places, and no chain of it has more.
    assert_eq!(driver.done(0), Some(16 * 8));
}

#[test]
fn request_of_more_buffers_than_a_system_call_takes_stops_the_device() {
    let mut driver = disk();
    driver.descriptor(TABLE, 0, (BUFFER, 16), DESCRIPTOR_NEXT, 1);
    let flags = DESCRIPTOR_WRITE | DESCRIPTOR_NEXT;
    for number in 1..u16::MAX {
        driver.descriptor(TABLE, number, (BUFFER + 16, 1), flags, number + 1);
    }
    let bytes = u32::from(u16::MAX) * 16;
    driver.descriptor(queue_base(0), 0, (TABLE, bytes), DESCRIPTOR_INDIRECT, 0);
    driver.offer(0, 0);
    assert!(is_stopped(&driver));
    assert_eq!(driver.done(0), None);
}

#[test]
fn head_that_is_no_descriptor_stops_the_device() {
    let mut driver = Driver::new(RandomDevice);
    driver.offer(0, QUEUE_SIZE);
    assert!(is_stopped(&driver));
}

#[test]
fn index_that_is_further_than_the_queue_is_long_stops_the_device() {
    let driver = Driver::new(RandomDevice);
    driver.put(queue_base(0) + 0x400 + 2, 1000_u16);
    driver.kick(0);
    assert!(is_stopped(&driver));
}

#[test]
fn buffer_beyond_memory_stops_the_device_and_is_not_written_in_part() {
    let mut driver = Driver::new(RandomDevice);
    let buffer = (MEMORY_BYTES - 8, 16);
    driver.descriptor(queue_base(0), 0, buffer, DESCRIPTOR_WRITE, 0);
    driver.offer(0, 0);
    assert!(is_stopped(&driver));
    assert_eq!(driver.bytes((MEMORY_BYTES - 8, 8)), [0; 8]);
}

#[test]
fn buffer_whose_end_overflows_stops_the_device() {
    let mut driver = Driver::new(RandomDevice);
    driver.descriptor(queue_base(0), 0, (u64::MAX - 4, 16), DESCRIPTOR_WRITE, 0);
    driver.offer(0, 0);
    assert!(is_stopped(&driver));
}

#[test]
fn empty_buffers_of_a_block_request_are_skipped() {
    let mut driver = disk();
    let header = block_header(BLOCK_OUT, 0);
    let parts = [
        Part::Read(&header),
        Part::Read(&[]),
        Part::Read(&[7; 512]),
        Part::Write(1),
    ];
    assert_eq!(driver.request(0, &parts), [[STATUS_OK]]);
}

#[test]
fn ranges_to_clear_that_overflow_or_leave_the_disk_fail() {
    for (sector, sectors) in [(u64::MAX, 1), (1 << 55, 1), (15, 2), (0, u32::MAX)] {
        for kind in [BLOCK_DISCARD, BLOCK_WRITE_ZEROES] {
            let header = block_header(kind, 0);
            let range = [
                &u64::to_le_bytes(sector)[..],
                &u32::to_le_bytes(sectors),
                &[0; 4],
            ];
            let parts = [
                Part::Read(&header),
                Part::Read(&range.concat()),
                Part::Write(1),
            ];
            let done = disk().request(0, &parts);
            assert_eq!(done, [[STATUS_IO_ERROR]], "{sectors} sectors at {sector}");
        }
    }
}

#[test]
fn more_ranges_to_clear_than_the_device_says_fail() {
    let mut driver = disk();
    let header = block_header(BLOCK_DISCARD, 0);
    let ranges = [0; 17 * 16];
    let parts = [Part::Read(&header), Part::Read(&ranges), Part::Write(1)];
    assert_eq!(driver.request(0, &parts), [[STATUS_IO_ERROR]]);
}

#[test]
fn buffer_without_room_does_not_cut_the_port_from_its_host() {
    let (mut driver, mut host) = console();
    say_open(&mut driver, 0, 1);
    driver.submit(TO_GUEST, &[Part::Write(0)]);
    driver.submit(TO_GUEST, &[Part::Read(b"not for the device to write")]);
    driver.submit(TO_GUEST, &[Part::Write(64)]);
    host.write_all(b"still here").unwrap();
    driver.source_ready();
    let lengths: Vec<_> = std::iter::from_fn(|| driver.done(TO_GUEST)).collect();
    assert_eq!(lengths, [0, 0, 10]);
}

#[test]
fn control_message_for_a_port_that_is_not_there_says_nothing_of_the_one_that_is() {
    let (mut driver, mut host) = console();
    host.write_all(b"early").unwrap();
    driver.submit(TO_GUEST, &[Part::Write(64)]);
    say_open(&mut driver, 7, 1);
    assert_eq!(driver.done(TO_GUEST), None);
    say_open(&mut driver, 0, 1);
    assert_eq!(driver.done(TO_GUEST), Some(5));
}

#[test]
fn control_messages_that_are_cut_or_unknown_are_taken_and_mean_nothing() {
    let (mut driver, mut host) = console();
    for message in [&[0; 7][..], &[], &[0xff; 8], &[0, 0, 0, 0, 9, 0, 1, 0]] {
        driver.request(CONTROL_FROM_GUEST, &[Part::Read(message)]);
    }
    assert!(!is_stopped(&driver));
    assert!(host.read(&mut [0]).is_err());
}

#[test]
fn driver_that_asks_without_end_and_takes_no_answer_is_owed_few() {
    let (mut driver, _host) = console();
    let message = [0, 0, 0, 0, 0, 0, 1, 0];
    driver.descriptor(queue_base(3), 0, (BUFFER, 8), 0, 0);
    driver
        .memory
        .write_slice(&message, GuestAddress(BUFFER))
        .unwrap();
    for _ in 0..1000 {
        driver.offer(CONTROL_FROM_GUEST, 0);
    }
    // More buffers than answers.
    for number in 0..QUEUE_SIZE {
        driver.descriptor(queue_base(2), number, (BUFFER, 8), DESCRIPTOR_WRITE, 0);
        driver.offer(2, number);
    }
    driver.offer(2, 0);
    let answers = std::iter::from_fn(|| driver.done(2)).count();
    assert_eq!(answers, MAX_WAITING);
}

#[test]
fn report_of_memory_that_is_not_there_changes_nothing() {
    let mut driver = Driver::new(BalloonDevice);
    driver
        .memory
        .write_slice(&[5; 64], GuestAddress(MEMORY_BYTES - 64))
        .unwrap();
    for (number, buffer) in [
        (0, (MEMORY_BYTES, 0x1000)),
        (1, (u64::MAX - 0xfff, 0x1000)),
        (2, (0xd000_0000, u32::MAX)),
        (3, (MEMORY_BYTES - 64, 0)),
    ] {
        driver.descriptor(queue_base(REPORTING), number, buffer, DESCRIPTOR_WRITE, 0);
        driver.offer(REPORTING, number);
    }
    assert_eq!(std::iter::from_fn(|| driver.done(REPORTING)).count(), 4);
    assert!(!is_stopped(&driver));
    assert_eq!(driver.bytes((MEMORY_BYTES - 64, 64)), [5; 64]);
}

#[test]
fn report_gives_back_what_it_says_and_no_byte_beside() {
    let mut driver = Driver::new(BalloonDevice);
    driver
        .memory
        .write_slice(&[5; 0x3000], GuestAddress(BUFFER))
        .unwrap();
    let buffer = (BUFFER + 0x1000, 0x1000);
    driver.descriptor(queue_base(REPORTING), 0, buffer, DESCRIPTOR_WRITE, 0);
    // What the device may only read is not given back.
    driver.descriptor(queue_base(REPORTING), 1, (BUFFER, 0x1000), 0, 0);
    driver.offer(REPORTING, 0);
    driver.offer(REPORTING, 1);
    let expected = [[5; 0x1000], [0; 0x1000], [5; 0x1000]].concat();
    assert!(driver.bytes((BUFFER, 0x3000)) == expected);
}

#[test]
fn buffer_too_small_for_a_frames_header_stops_the_network() {
    let (mut host, link) = UnixStream::pair().unwrap();
    let interface = NetworkInterface {
        mac: [2; 6],
        mtu: 1500,
    };
    let mut driver = Driver::new(NetworkDevice::new(interface, link).unwrap());
    host.write_all(&[0, 0, 0, 2, 1, 2]).unwrap();
    driver.submit(TO_GUEST, &[Part::Write(11)]);
    driver.submit(TO_GUEST, &[Part::Write(64)]);
    assert!(is_stopped(&driver));
}

#[test]
fn queue_of_a_size_or_at_an_address_that_cannot_be_stops_the_device() {
    // Size, descriptors, available ring, used ring.
    for (register, value) in [
        (0x038, 3),
        (0x038, 0),
        (0x038, 0x1_0008),
        (0x080, 0x1008),
        (0x090, 0x1401),
        (0x0a0, 0x1802),
    ] {
        let driver = disk();
        driver.write(STATUS, 0);
        driver.negotiate();
        driver.write(register, value);
        driver.write(STATUS, IN_USE);
        assert!(is_stopped(&driver), "{value:#x} in {register:#x}");
        driver.write(STATUS, 0);
        driver.negotiate();
        driver.write(STATUS, IN_USE);
        assert!(!is_stopped(&driver));
    }
}

/// A device that adds to its queue what it takes from it, as one does whose driver has put the ring
/// where the device writes.
struct SelfFeeding {
    taken: u16,
}

impl VirtioDevice for SelfFeeding {
    fn id(&self) -> u32 {
        0
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn kicked(&mut self, queue: usize, queues: &mut Queues) -> Result<(), BrokenDriver> {
        loop {
            while let Some(request) = queues.take(queue)? {
                self.taken += 1;
                let index = GuestAddress(queue_base(0) + 0x400 + 2);
                queues.memory().write_obj(self.taken + 1, index).unwrap();
                queues.complete(queue, &request, 0)?;
            }
            queues.notify(queue)?;
            if !queues.wait_for_kick(queue)? {
                return Ok(());
            }
        }
    }
}

#[test]
fn ring_that_feeds_itself_ends_its_turn() {
    let driver = Driver::new(SelfFeeding { taken: 0 });
    driver.descriptor(queue_base(0), 0, (BUFFER, 1), 0, 0);
    driver.put(queue_base(0) + 0x400 + 2, 1_u16);
    assert_eq!(driver.slot.kicked(0), Turn::Unfinished);
    assert_eq!(driver.slot.kicked(0), Turn::Unfinished);
    // Nothing of what it has done is lost.
    let used: u16 = driver
        .memory
        .read_obj(GuestAddress(queue_base(0) + 0x800 + 2))
        .unwrap();
    assert_eq!(used, 2 * 1024);
}
