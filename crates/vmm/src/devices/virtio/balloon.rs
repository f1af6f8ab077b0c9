//! The balloon device (Virtio 1.3 §5.5), used for one thing: the guest reports which memory it
//! does not use (free page reporting, §5.5.6.7), and the host has it back.

use super::device::{BrokenDriver, Queues, VirtioDevice};
use crate::memory::discard;

/// The guest reports free pages on a queue of its own (Virtio 1.3 §5.5.3).
const FEATURE_REPORTING: u64 = 1 << 5;

/// Inflate, deflate, reporting: without the features in between, the third queue is reporting's.
const QUEUE_SIZES: [u16; 3] = [16, 16, 64];
const REPORTING: usize = 2;

/// Pages wanted and pages given, both none (Virtio 1.3 §5.5.4).
const CONFIGURATION: [u8; 8] = [0; 8];

/// The balloon device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BalloonDevice;

impl VirtioDevice for BalloonDevice {
    fn id(&self) -> u32 {
        5
    }

    fn features(&self) -> u64 {
        FEATURE_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn configuration(&self) -> &[u8] {
        &CONFIGURATION
    }

    fn kicked(&mut self, queue: usize, queues: &mut Queues) -> Result<(), BrokenDriver> {
        loop {
            while let Some(request) = queues.take(queue)? {
                if queue == REPORTING {
                    for (address, length) in request.writable_ranges() {
                        // A host that cannot have it back now has lost nothing.
                        let _kept = discard(queues.memory(), address, length);
                    }
                }
                queues.complete(queue, &request, 0)?;
            }
            queues.notify(queue)?;
            if !queues.wait_for_kick(queue)? {
                return Ok(());
            }
        }
    }
}
