//! Counting what devices pass on. They count without a lock: whoever asks never waits for a device
//! at work.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use smolvm_protocol::vmm::Traffic;

/// What a device has passed on so far.
#[derive(Debug, Default)]
pub(crate) struct TrafficCount {
    to_guest: FlowCount,
    from_guest: FlowCount,
}

#[derive(Debug, Default)]
struct FlowCount {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl TrafficCount {
    /// The guest has got a request's or a frame's bytes.
    pub(super) fn count_to_guest(&self, bytes: u64) {
        self.to_guest.add(bytes);
    }

    /// The guest has given them.
    pub(super) fn count_from_guest(&self, bytes: u64) {
        self.from_guest.add(bytes);
    }

    /// Adds what has been counted to `traffic`.
    pub(crate) fn add_to(&self, traffic: &mut Traffic) {
        for (flow, counted) in [
            (&mut traffic.to_guest, &self.to_guest),
            (&mut traffic.from_guest, &self.from_guest),
        ] {
            flow.count.add_assign(counted.count.load(Ordering::Relaxed));
            flow.bytes.add_assign(counted.bytes.load(Ordering::Relaxed));
        }
    }
}

impl FlowCount {
    fn add(&self, bytes: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
