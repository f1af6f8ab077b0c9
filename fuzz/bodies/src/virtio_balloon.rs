//! The driver of a balloon, as `virtio` says.

use smolvm_vmm::fuzzing::Device;

use crate::virtio::{self, MEMORY_BYTES, NoHost, Steps};

/// Drives a balloon.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let device = Device::balloon(MEMORY_BYTES).expect("memory for it");
    virtio::run(device, &mut NoHost, input);
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let steps = || Steps::new(3).write(0x8ff0, &[5; 32]);
    let drivers = [
        steps().request(2, 0, &[(0x9000, 0x1000, true), (0xb000, 0x4000, true)]),
        steps()
            .with_event_idx()
            .request(0, 0, &[(0x8000, 64, false)])
            .request(1, 0, &[(0x8000, 64, false)])
            .indirect(2, 0x6000, &[(0x8ff8, 16, true), (0xf000, 0xffff, true)])
            .restart(),
    ];
    drivers.into_iter().map(Steps::input).collect()
}
