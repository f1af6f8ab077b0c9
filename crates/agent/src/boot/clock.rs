//! The guest's monotonic clock, which starts with its kernel.

use rustix::time::ClockId;

/// Returns the milliseconds since the kernel started.
pub(crate) fn since_kernel_start_ms() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let milliseconds = u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
    seconds.saturating_mul(1_000).saturating_add(milliseconds)
}
