//! The entropy device (Virtio 1.3 §5.4): random bytes of the host's.

use super::device::{BrokenDriver, Queues, VirtioDevice};

/// Largest piece that a driver gets at once; it asks for more.
const MAX_BYTES: usize = 4096;

/// The entropy device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RandomDevice;

impl VirtioDevice for RandomDevice {
    fn id(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn kicked(&mut self, queue: usize, queues: &mut Queues) -> Result<(), BrokenDriver> {
        let mut bytes = [0; MAX_BYTES];
        loop {
            while let Some(request) = queues.take(queue)? {
                let slices = request.writable(queues.memory())?;
                let wanted =
                    usize::try_from(slices.len()).map_or(MAX_BYTES, |len| len.min(MAX_BYTES));
                let flags = rustix::rand::GetRandomFlags::empty();
                // Less than asked for is legal, also nothing.
                let count = rustix::rand::getrandom(&mut bytes[..wanted], flags).unwrap_or(0);
                let written = slices.copy_from(&bytes[..count]);
                queues.complete(queue, &request, u32::try_from(written).unwrap_or(0))?;
            }
            queues.notify(queue)?;
            if !queues.wait_for_kick(queue)? {
                return Ok(());
            }
        }
    }
}
