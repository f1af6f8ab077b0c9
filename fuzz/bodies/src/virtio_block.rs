//! The driver of a disk, as `virtio` says; the first byte says whether the disk is read-only.
//!
//! The disk's file never grows, and one that is read-only never changes.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use smolvm_vmm::fuzzing::Device;

use crate::virtio::{self, Host, MEMORY_BYTES, Part, Steps};

/// Size of the disk: 16 sectors and a rest.
const DISK_BYTES: usize = 8192 + 100;

struct Disk {
    file: File,
    is_read_only: bool,
    bytes: u64,
}

impl Host for Disk {
    /// Makes the file shorter, as somebody else on the host may.
    fn act(&mut self, kind: u8, _bytes: &[u8]) {
        if !self.is_read_only {
            self.file
                .set_len(32 * u64::from(kind))
                .expect("a file of ours");
        }
    }

    fn check(&mut self) {
        let bytes = self.file.metadata().expect("a file of ours").len();
        assert!(bytes <= self.bytes, "the file has grown to {bytes} bytes");
        if self.is_read_only {
            let mut content = vec![0; DISK_BYTES];
            self.file.read_exact_at(&mut content, 0).expect("all of it");
            assert!(content == [7; DISK_BYTES], "the disk was read-only");
        }
    }
}

/// Drives a disk.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Some((&kind, input)) = input.split_first() else {
        return;
    };
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&[7; DISK_BYTES]).expect("room for it");
    let mut disk = Disk {
        file: file.try_clone().expect("a descriptor"),
        is_read_only: kind & 1 != 0,
        bytes: DISK_BYTES as u64,
    };
    let device = Device::block(file, disk.is_read_only, MEMORY_BYTES).expect("memory for it");
    virtio::run(device, &mut disk, input);
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let header = |kind: u8, sector: u8| {
        let mut header = [0; 16];
        (header[0], header[8]) = (kind, sector);
        header
    };
    const DATA: Part = (0x8000, 512, false);
    let range = [&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0][..], &[0; 4]].concat();
    let steps = || {
        Steps::new(1)
            .write(0x7000, &header(1, 3))
            .write(0x7100, &header(0, 3))
    };
    let header_at = |address| (address, 16, false);
    let status: Part = (0x9000, 1, true);
    let drivers = [
        steps().request(0, 0, &[header_at(0x7000), DATA, status]),
        steps()
            .with_event_idx()
            .request(0, 0, &[header_at(0x7100), (0x8000, 512, true), status])
            .request(0, 4, &[header_at(0x7000), DATA, DATA, status]),
        steps().indirect(
            0,
            0x6000,
            &[header_at(0x7100), (0x8000, 1024, true), status],
        ),
        steps()
            .write(0x7000, &header(11, 0))
            .write(0x7100, &header(13, 0))
            .write(0x8000, &range)
            .request(0, 0, &[header_at(0x7000), (0x8000, 16, false), status])
            .request(0, 4, &[header_at(0x7100), (0x8000, 16, false), status]),
        steps()
            .write(0x7000, &header(4, 0))
            .write(0x7100, &header(8, 0))
            .request(0, 0, &[header_at(0x7000), status])
            .restart()
            .request(0, 4, &[header_at(0x7100), (0x8000, 20, true), status])
            .host(1, &[]),
    ];
    let inputs = drivers.into_iter().map(Steps::input);
    inputs
        .flat_map(|input| [0, 1].map(|kind| [&[kind][..], &input].concat()))
        .collect()
}
