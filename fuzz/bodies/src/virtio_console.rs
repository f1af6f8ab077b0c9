//! The driver of a console, as `virtio` says, and a host that sends, reads or ends.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use smolvm_vmm::fuzzing::Device;

use crate::virtio::{self, Host, MEMORY_BYTES, Steps};

// What the host does.
const SEND: u8 = 0;
const READ: u8 = 1;
const END: u8 = 2;
const KINDS: u8 = 3;

/// Bytes that the host reads at once.
const READ_BYTES: usize = 64 << 10;

struct Port(Option<UnixStream>);

impl Host for Port {
    fn act(&mut self, kind: u8, bytes: &[u8]) {
        let Some(stream) = &mut self.0 else {
            return;
        };
        match kind % KINDS {
            // Neither side waits: what does not fit is lost.
            SEND => drop(stream.write(bytes)),
            READ => drop(stream.read(&mut vec![0; READ_BYTES])),
            END => self.0 = None,
            _ => {}
        }
    }

    fn check(&mut self) {}
}

/// Drives a console.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let (host, stream) = UnixStream::pair().expect("a pair of sockets");
    host.set_nonblocking(true).expect("a socket of ours");
    let device = Device::console(stream, MEMORY_BYTES).expect("memory for it");
    virtio::run(device, &mut Port(Some(host)), input);
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let control = |event: u8| [0, 0, 0, 0, event, 0, 1, 0];
    let open = || {
        let steps = Steps::new(4).write(0x7000, &control(0));
        let steps = steps.write(0x7010, &control(3)).write(0x7020, &control(6));
        let steps = steps.request(2, 0, &[(0x7800, 32, true)]);
        let steps = steps.request(2, 1, &[(0x7900, 32, true)]);
        let steps = steps.request(3, 0, &[(0x7000, 8, false)]);
        let steps = steps.request(3, 1, &[(0x7010, 8, false)]);
        steps.request(3, 2, &[(0x7020, 8, false)])
    };
    let drivers = [
        open(),
        open()
            .host(SEND, b"to the guest")
            .request(0, 0, &[(0x8000, 64, true)]),
        open()
            .request(0, 0, &[(0x8000, 4, true), (0x8100, 64, true)])
            .host(SEND, b"to the guest"),
        open()
            .request(1, 0, &[(0x8000, 0x7000, false), (0x8000, 0x7000, false)])
            .indirect(
                1,
                0x6000,
                &[(0x8000, 0xffff, false), (0x8000, 0xffff, false)],
            )
            .request(1, 4, &[(0x8000, 0xffff, false), (0x8000, 0xffff, false)])
            .request(1, 8, &[(0x8000, 0xffff, false), (0x8000, 0xffff, false)])
            .host(READ, &[])
            .host(READ, &[]),
        open().host(END, &[]).request(1, 0, &[(0x8000, 16, false)]),
        open().restart().with_event_idx(),
    ];
    drivers.into_iter().map(Steps::input).collect()
}
