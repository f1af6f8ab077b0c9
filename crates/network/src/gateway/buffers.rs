//! How large the buffers of a connection are.
//!
//! A guest that moves much does so over a few connections, and what these buffers hold on the way
//! is what decides how fast. A guest with very many connections moves little over each. So the
//! first few that are open have large buffers, and all others small ones: a full gateway stays
//! below 64 KiB for each connection, and a busy one fills the guest's link.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that have large buffers at once, at most: 8 MiB.
const LARGE_BUFFERS: usize = 32;

/// Bytes of a large buffer: two of the longest packets, one that the guest handles while the next
/// is made.
const LARGE_BYTES: usize = 128 * 1024;

/// Bytes of a small buffer. Two of them, the stack and the task make less than 56 KiB.
const SMALL_BYTES: usize = 20 * 1024;

/// Hands out sizes.
#[derive(Debug)]
pub(crate) struct Buffers(Arc<Semaphore>);

impl Default for Buffers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_BUFFERS)))
    }
}

impl Buffers {
    /// Returns what the next connection may take, and keeps while it has it.
    pub(crate) fn take(&self) -> BufferSize {
        let place = Arc::clone(&self.0).try_acquire_owned().ok();
        BufferSize {
            bytes: if place.is_some() {
                LARGE_BYTES
            } else {
                SMALL_BYTES
            },
            _place: place,
        }
    }
}

/// The size of a connection's buffers.
#[derive(Debug)]
pub(crate) struct BufferSize {
    /// Bytes from the guest that wait for the host, at most, and as many for the guest that it has
    /// not acknowledged.
    pub(crate) bytes: usize,
    _place: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_beyond_the_first_few_have_small_buffers_until_one_of_those_ends() {
        let buffers = Buffers::default();
        let mut large: Vec<BufferSize> = (0..LARGE_BUFFERS).map(|_| buffers.take()).collect();
        assert!(large.iter().all(|size| size.bytes == LARGE_BYTES));
        assert_eq!(buffers.take().bytes, SMALL_BYTES);
        large.pop();
        assert_eq!(buffers.take().bytes, LARGE_BYTES);
    }
}
