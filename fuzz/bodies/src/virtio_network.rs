//! The driver of a network device, as `virtio` says, and a gateway that sends, reads or ends.
//!
//! What the device sends over its link are frames of legal lengths, one after the other.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use smolvm_vmm::fuzzing::Device;

use crate::virtio::{self, Host, MEMORY_BYTES, Steps};

// What the host does.
const SEND_FRAME: u8 = 0;
const SEND_BYTES: u8 = 1;
const READ: u8 = 2;
const END: u8 = 3;
const SEND_LONG_FRAME: u8 = 4;
const KINDS: u8 = 5;

/// Largest frame: a packet of IPv4 with its Ethernet header.
const MAX_FRAME_BYTES: u32 = 65_535 + 14;

/// Bytes that the host reads at once.
const READ_BYTES: usize = 256 << 10;

struct Gateway {
    link: Option<UnixStream>,
    /// What has been read and is no complete frame yet.
    read: Vec<u8>,
}

impl Gateway {
    fn read(&mut self) {
        let Some(link) = &mut self.link else {
            return;
        };
        let mut bytes = vec![0; READ_BYTES];
        let count = link.read(&mut bytes).unwrap_or(0);
        self.read.extend(&bytes[..count]);
        while let Some(length) = self.read.first_chunk() {
            let length = u32::from_be_bytes(*length);
            assert!(
                (1..=MAX_FRAME_BYTES).contains(&length),
                "a frame of {length} bytes"
            );
            let end = 4 + usize::try_from(length).expect("short");
            if self.read.len() < end {
                break;
            }
            self.read.drain(..end);
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        if let Some(link) = &mut self.link {
            // Neither side waits: what does not fit is lost.
            drop(link.write(bytes));
        }
    }

    fn send_frame(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).expect("short");
        self.send(&[&length.to_be_bytes()[..], frame].concat());
    }
}

impl Host for Gateway {
    fn act(&mut self, kind: u8, bytes: &[u8]) {
        match kind % KINDS {
            SEND_FRAME => self.send_frame(bytes),
            SEND_BYTES => self.send(bytes),
            READ => self.read(),
            SEND_LONG_FRAME => self.send_frame(&bytes.repeat(200)),
            _ => {
                self.read();
                self.link = None;
            }
        }
    }

    fn check(&mut self) {}
}

/// Drives a network device.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let (host, link) = UnixStream::pair().expect("a pair of sockets");
    host.set_nonblocking(true).expect("a socket of ours");
    let device = Device::network(link, MEMORY_BYTES).expect("memory for it");
    let mut gateway = Gateway {
        link: Some(host),
        read: Vec::new(),
    };
    virtio::run(device, &mut gateway, input);
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let steps = || Steps::new(2);
    let drivers = [
        steps()
            .request(1, 0, &[(0x7000, 12, false), (0x8000, 60, false)])
            .host(READ, &[]),
        steps()
            .with_event_idx()
            .request(0, 0, &[(0x8000, 1526, true)])
            .host(SEND_FRAME, &[9; 60]),
        steps()
            .host(SEND_LONG_FRAME, &[9; 60])
            .request(0, 0, &[(0x8000, 64, true)])
            .request(0, 1, &[(0x9000, 0x7000, true)]),
        steps()
            .host(SEND_BYTES, &[0, 0])
            .indirect(0, 0x6000, &[(0x8000, 12, true), (0x9000, 64, true)])
            .host(SEND_BYTES, &[0, 2, 1, 2])
            .restart(),
        steps()
            .request(1, 0, &[(0x8000, 0xffff, false)])
            .request(1, 1, &[(0x8000, 0xffff, false)])
            .request(1, 2, &[(0x8000, 0xffff, false)])
            .request(1, 3, &[(0x8000, 0xffff, false)])
            .host(READ, &[])
            .host(END, &[])
            .request(1, 4, &[(0x8000, 60, false)]),
    ];
    drivers.into_iter().map(Steps::input).collect()
}
