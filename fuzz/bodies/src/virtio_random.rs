//! The driver of an entropy device, as `virtio` says.

use smolvm_vmm::fuzzing::Device;

use crate::virtio::{self, MEMORY_BYTES, NoHost, Steps};

/// Drives an entropy device.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let device = Device::random(MEMORY_BYTES).expect("memory for it");
    virtio::run(device, &mut NoHost, input);
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let steps = || Steps::new(1);
    let drivers = [
        steps().request(0, 0, &[(0x8000, 64, true)]),
        steps()
            .with_event_idx()
            .indirect(0, 0x6000, &[(0x8000, 64, true), (0x9000, 0x7000, true)])
            .request(0, 1, &[(0x8000, 64, false)])
            .restart(),
    ];
    drivers.into_iter().map(Steps::input).collect()
}
