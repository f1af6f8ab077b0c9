//! The block device (Virtio 1.3 §5.2) on a file of raw blocks.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::device::{BrokenDriver, Queues, Request, Slices, VirtioDevice, broken};
use super::traffic::TrafficCount;
use crate::memory::{Memory, read_file_at, write_file_at};

/// The device's number (Virtio 1.3 §5).
pub(crate) const DEVICE_ID: u32 = 2;

/// Bytes of a sector, in which the device counts (Virtio 1.3 §5.2.4).
const SECTOR_BYTES: u64 = 512;

// Features (Virtio 1.3 §5.2.3).
const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_DISCARD: u64 = 1 << 13;
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

// Types of requests, and how they end (Virtio 1.3 §5.2.6).
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;
const STATUS_OK: u8 = 0;
const STATUS_IO_ERROR: u8 = 1;
const STATUS_UNSUPPORTED: u8 = 2;

/// Bytes of a request's header and of a range to discard.
const HEADER_BYTES: usize = 16;

/// Bytes of a disk's serial number.
const ID_BYTES: usize = 20;

/// Largest number of requests at a time.
const QUEUE_SIZE: u16 = 256;

/// Buffers of one request, less than there are places in the queue.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Sectors and ranges of one request to discard; more come as more requests.
const MAX_DISCARD_SECTORS: u32 = u32::MAX >> 9;
const MAX_DISCARD_RANGES: u32 = 16;

/// The block device.
#[derive(Debug)]
pub(crate) struct BlockDevice {
    file: File,
    is_read_only: bool,
    size_bytes: u64,
    serial: [u8; ID_BYTES],
    configuration: [u8; 60],
    traffic: Arc<TrafficCount>,
}

/// How a request ends: bytes that went into its buffers, or why it failed.
type Outcome = Result<u64, u8>;

impl BlockDevice {
    /// Makes a device of a file, as large as it is now.
    pub(crate) fn new(file: File, name: &str, is_read_only: bool) -> io::Result<Self> {
        let size_bytes = file.metadata()?.len();
        let mut serial = [0; ID_BYTES];
        let length = name.len().min(ID_BYTES);
        serial[..length].copy_from_slice(&name.as_bytes()[..length]);
        Ok(Self {
            file,
            is_read_only,
            size_bytes,
            serial,
            configuration: configuration(size_bytes / SECTOR_BYTES),
            traffic: Arc::default(),
        })
    }

    /// Does one request. Returns how many bytes have been written to its buffers.
    fn serve(&self, request: &Request, memory: &Memory) -> Result<u32, BrokenDriver> {
        let mut readable = request.readable(memory)?;
        let mut writable = request.writable(memory)?;
        let mut header = [0; HEADER_BYTES];
        if readable
            .split_off_front(HEADER_BYTES as u64)
            .copy_to(&mut header)
            < HEADER_BYTES
        {
            return Err(broken("a block request has no header"));
        }
        let status = writable.split_off_back(1);
        if status.len() != 1 {
            return Err(broken("a block request has no place for its status"));
        }
        let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
        let outcome = match kind {
            TYPE_IN => self.read(writable, sector),
            TYPE_OUT => self.write(readable, sector),
            TYPE_FLUSH => self.flush(),
            TYPE_GET_ID => Ok(writable.copy_from(&self.serial) as u64),
            TYPE_DISCARD => self.clear(&readable, FallocateFlags::PUNCH_HOLE),
            TYPE_WRITE_ZEROES => self.clear(&readable, FallocateFlags::ZERO_RANGE),
            _ => Err(STATUS_UNSUPPORTED),
        };
        let (written, code) = match outcome {
            Ok(written) => (written, STATUS_OK),
            Err(code) => (0, code),
        };
        status.copy_from(&[code]);
        Ok(u32::try_from(written + 1).unwrap_or(u32::MAX))
    }

    /// Returns where a transfer begins, if all of it is on the disk.
    fn offset(&self, sector: u64, length: u64) -> Result<u64, u8> {
        let start = sector.checked_mul(SECTOR_BYTES).ok_or(STATUS_IO_ERROR)?;
        let end = start.checked_add(length).ok_or(STATUS_IO_ERROR)?;
        if end <= self.size_bytes && length.is_multiple_of(SECTOR_BYTES) {
            Ok(start)
        } else {
            Err(STATUS_IO_ERROR)
        }
    }

    fn read(&self, mut slices: Slices<'_>, sector: u64) -> Outcome {
        let length = slices.len();
        let mut offset = self.offset(sector, length)?;
        while slices.len() > 0 {
            let count = retry(|| read_file_at(self.file.as_fd(), slices.as_slices(), offset))?;
            if count == 0 {
                // The file has been made shorter: what is not there cannot be read.
                return Err(STATUS_IO_ERROR);
            }
            slices.split_off_front(count);
            offset += count;
        }
        self.traffic.count_to_guest(length);
        Ok(length)
    }

    fn write(&self, mut slices: Slices<'_>, sector: u64) -> Outcome {
        if self.is_read_only {
            return Err(STATUS_IO_ERROR);
        }
        let length = slices.len();
        let mut offset = self.offset(sector, length)?;
        if self.file_bytes()? < offset + length {
            // The file has been made shorter. Made longer again, it would read as zeros where it
            // has lost something.
            return Err(STATUS_IO_ERROR);
        }
        while slices.len() > 0 {
            let count = retry(|| write_file_at(self.file.as_fd(), slices.as_slices(), offset))?;
            if count == 0 {
                return Err(STATUS_IO_ERROR);
            }
            slices.split_off_front(count);
            offset += count;
        }
        self.traffic.count_from_guest(length);
        Ok(0)
    }

    /// Returns how long the file is now.
    fn file_bytes(&self) -> Outcome {
        let stat = rustix::fs::fstat(&self.file).map_err(|_| STATUS_IO_ERROR)?;
        u64::try_from(stat.st_size).map_err(|_| STATUS_IO_ERROR)
    }

    fn flush(&self) -> Outcome {
        self.file
            .sync_data()
            .map(|()| 0)
            .map_err(|_| STATUS_IO_ERROR)
    }

    /// Makes ranges zero: given back to the host, or kept as they are.
    fn clear(&self, ranges: &Slices<'_>, how: FallocateFlags) -> Outcome {
        if self.is_read_only {
            return Err(STATUS_IO_ERROR);
        }
        let length = usize::try_from(ranges.len()).map_err(|_| STATUS_IO_ERROR)?;
        if length > HEADER_BYTES * MAX_DISCARD_RANGES as usize {
            return Err(STATUS_IO_ERROR);
        }
        let mut bytes = vec![0; length];
        ranges.copy_to(&mut bytes);
        for range in bytes.chunks_exact(HEADER_BYTES) {
            let sector = u64::from_le_bytes(range[..8].try_into().expect("eight bytes"));
            let sectors = u32::from_le_bytes(range[8..12].try_into().expect("four bytes"));
            let length = u64::from(sectors) * SECTOR_BYTES;
            let offset = self.offset(sector, length)?;
            if length > 0 {
                rustix::fs::fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, length)
                    .map_err(|_| STATUS_IO_ERROR)?;
            }
        }
        Ok(0)
    }
}

/// Calls again when a signal came in between.
fn retry(mut call: impl FnMut() -> io::Result<usize>) -> Result<u64, u8> {
    loop {
        match call() {
            Ok(count) => return Ok(count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(STATUS_IO_ERROR),
        }
    }
}

/// Returns the device's configuration (Virtio 1.3 §5.2.4, `virtio_blk_config`).
fn configuration(sectors: u64) -> [u8; 60] {
    let mut bytes = [0; 60];
    let mut put = |offset: usize, value: u32| {
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    };
    put(12, SEG_MAX);
    put(36, MAX_DISCARD_SECTORS);
    put(40, MAX_DISCARD_RANGES);
    // In sectors: the blocks of the host's file system.
    put(44, 8);
    put(48, MAX_DISCARD_SECTORS);
    put(52, MAX_DISCARD_RANGES);
    // Zeros need no place on the disk.
    bytes[56] = 1;
    bytes[..8].copy_from_slice(&sectors.to_le_bytes());
    bytes
}

impl VirtioDevice for BlockDevice {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn traffic(&self) -> Option<Arc<TrafficCount>> {
        Some(self.traffic.clone())
    }

    fn features(&self) -> u64 {
        let both = FEATURE_SEG_MAX | FEATURE_FLUSH;
        if self.is_read_only {
            both | FEATURE_READ_ONLY
        } else {
            both | FEATURE_DISCARD | FEATURE_WRITE_ZEROES
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn kicked(&mut self, queue: usize, queues: &mut Queues) -> Result<(), BrokenDriver> {
        loop {
            while let Some(request) = queues.take(queue)? {
                let written = self.serve(&request, queues.memory())?;
                queues.complete(queue, &request, written)?;
                queues.notify(queue)?;
            }
            if !queues.wait_for_kick(queue)? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use smolvm_protocol::vmm::{Flow, Traffic};

    use super::super::driver::{Driver, NEEDS_RESET, Part};
    use super::*;

    /// Returns a driver of a disk with 8 KiB of ones, and the disk's file.
    fn disk(is_read_only: bool) -> (Driver, File) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 8192]).unwrap();
        let device = BlockDevice::new(file.try_clone().unwrap(), "disk", is_read_only).unwrap();
        (Driver::new(device), file)
    }

    fn header(kind: u32, sector: u64) -> Vec<u8> {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        header
    }

    #[test]
    fn what_is_written_is_in_the_file_and_read_back() {
        let (mut driver, mut file) = disk(false);
        let (header_out, header_in) = (header(TYPE_OUT, 2), header(TYPE_IN, 2));
        let data = [7; 512];
        let done = driver.request(
            0,
            &[Part::Read(&header_out), Part::Read(&data), Part::Write(1)],
        );
        assert_eq!(done, [[STATUS_OK]]);
        let done = driver.request(
            0,
            &[Part::Read(&header_in), Part::Write(512), Part::Write(1)],
        );
        assert_eq!(done, [data.to_vec(), vec![STATUS_OK]]);
        assert!(driver.was_interrupted());
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content[1023..1537], [&[1][..], &[7; 512], &[1]].concat());
        let mut traffic = Traffic::default();
        let (_, counted) = driver.slot.traffic().unwrap();
        counted.add_to(&mut traffic);
        let once = Flow {
            count: 1,
            bytes: 512,
        };
        assert_eq!((traffic.to_guest, traffic.from_guest), (once, once));
    }

    #[test]
    fn requests_beyond_the_end_fail_and_the_disk_goes_on() {
        let (mut driver, _file) = disk(false);
        for (kind, sector) in [(TYPE_IN, 16), (TYPE_IN, u64::MAX), (TYPE_IN, 15)] {
            let header = header(kind, sector);
            let done = driver.request(0, &[Part::Read(&header), Part::Write(1024), Part::Write(1)]);
            assert_eq!(done[1], [STATUS_IO_ERROR], "sector {sector}");
        }
        let header = header(TYPE_GET_ID, 0);
        let done = driver.request(0, &[Part::Read(&header), Part::Write(20), Part::Write(1)]);
        assert_eq!(&done[0][..5], b"disk\0");
    }

    #[test]
    fn file_that_was_made_shorter_fails_and_is_not_made_longer() {
        let (mut driver, file) = disk(false);
        file.set_len(512).unwrap();
        let (read, write) = (header(TYPE_IN, 4), header(TYPE_OUT, 15));
        let parts = [Part::Read(&write), Part::Read(&[7; 512]), Part::Write(1)];
        assert_eq!(driver.request(0, &parts), [[STATUS_IO_ERROR]]);
        let done = driver.request(0, &[Part::Read(&read), Part::Write(512), Part::Write(1)]);
        assert_eq!(done[1], [STATUS_IO_ERROR]);
        assert_eq!(file.metadata().unwrap().len(), 512);
        // What is left of it goes on.
        let write = header(TYPE_OUT, 0);
        let parts = [Part::Read(&write), Part::Read(&[7; 512]), Part::Write(1)];
        assert_eq!(driver.request(0, &parts), [[STATUS_OK]]);
    }

    /// Names, in a process of the next test's own, a directory on a full file system.
    const FULL: &str = "SMOLVM_VMM_FULL_FILE_SYSTEM";

    /// Not a test by itself: what that process does.
    #[test]
    fn writes_until_there_is_no_room() {
        let Ok(directory) = std::env::var(FULL) else {
            return;
        };
        let file = tempfile::tempfile_in(directory).unwrap();
        // Sparse, and larger than what it is on.
        file.set_len(1 << 20).unwrap();
        let mut driver = Driver::new(BlockDevice::new(file, "disk", false).unwrap());
        let mut write = |sector: u64| {
            let header = header(TYPE_OUT, sector);
            let parts = [Part::Read(&header), Part::Read(&[7; 4096]), Part::Write(1)];
            driver.request(0, &parts)[0][0]
        };
        // Each request has its own place in the queue, which is short.
        assert_eq!(write(0), STATUS_OK);
        assert_eq!(write(8), STATUS_OK);
        assert_eq!(write(2040), STATUS_IO_ERROR, "there is room for two pages");
        // What has a place already can be written, and is as it was written.
        assert_eq!(write(8), STATUS_OK);
        eprintln!("went on");
    }

    #[test]
    fn full_file_system_fails_what_has_no_room_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let test = std::env::current_exe().unwrap();
        // Two pages, and one for the directory.
        let script = "mount -t tmpfs -o size=8k none \"$1\" && exec \"$2\" --exact --nocapture \
             devices::virtio::block::tests::writes_until_there_is_no_room";
        let ended = std::process::Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
                path,
            ])
            .arg(test)
            .env(FULL, path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        if said.contains("unshare failed") {
            println!("SKIPPED full_file_system_fails_what_has_no_room_and_nothing_else: {said}");
            return;
        }
        assert!(ended.status.success() && said.contains("went on"), "{said}");
    }

    #[test]
    fn disk_that_is_read_only_takes_nothing() {
        let (mut driver, mut file) = disk(true);
        let range = [0_u8; HEADER_BYTES];
        for kind in [TYPE_OUT, TYPE_DISCARD, TYPE_WRITE_ZEROES] {
            let header = header(kind, 0);
            let data = if kind == TYPE_OUT {
                &[0; 512][..]
            } else {
                &range
            };
            let parts = [Part::Read(&header), Part::Read(data), Part::Write(1)];
            assert_eq!(driver.request(0, &parts), [[STATUS_IO_ERROR]]);
        }
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, [1; 8192]);
    }

    #[test]
    fn discarded_sectors_read_as_zeros() {
        let (mut driver, _file) = disk(false);
        let mut range = 4_u64.to_le_bytes().to_vec();
        range.extend(4_u32.to_le_bytes());
        range.extend([0; 4]);
        let discard = header(TYPE_DISCARD, 0);
        let parts = [Part::Read(&discard), Part::Read(&range), Part::Write(1)];
        assert_eq!(driver.request(0, &parts), [[STATUS_OK]]);
        let read = header(TYPE_IN, 3);
        let parts = [Part::Read(&read), Part::Write(1024), Part::Write(1)];
        let done = driver.request(0, &parts);
        assert_eq!(done[0], [[1; 512], [0; 512]].concat());
    }

    #[test]
    fn driver_without_a_place_for_the_status_stops_its_disk_and_no_other() {
        let (mut driver, _file) = disk(false);
        let header = header(TYPE_FLUSH, 0);
        driver.submit(0, &[Part::Read(&header)]);
        assert_eq!(driver.done(0), None);
        assert_ne!(driver.status() & NEEDS_RESET, 0);
        // Told of by the interrupt, and over after a reset.
        assert!(driver.was_interrupted());
        driver.write(0x070, 0);
        assert_eq!(driver.status(), 0);
    }

    #[test]
    fn buffers_in_the_wrong_order_stop_the_disk() {
        let (mut driver, _file) = disk(false);
        let header = header(TYPE_IN, 0);
        driver.submit(0, &[Part::Write(512), Part::Read(&header), Part::Write(1)]);
        assert_eq!(driver.done(0), None);
        assert_ne!(driver.status() & NEEDS_RESET, 0);
    }
}
