//! Frequency of the time stamp counter, measured against the raw monotonic clock.
//!
//! A reading is a pair (counter, clock). The two cannot be read at one instant, so the counter
//! is read before and after the clock; of several such brackets the narrowest is kept, because
//! a wide one was interrupted. Two readings and the time between them give the frequency, and
//! the widths of their brackets bound its error.
//!
//! `CLOCK_MONOTONIC_RAW` is not slewed by NTP, so that the result is the hardware's frequency as
//! far as the kernel knows it.

use std::arch::asm;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use smolvm_protocol::probe::TscFrequency;

/// Least time between the two readings. Brackets are some 100 ns wide, which over 20 ms is an
/// error of about 5 parts per million, and Linux accepts 500 before it mistrusts the value
/// (`tsc_refine_calibration_work`, Linux 6.12 arch/x86/kernel/tsc.c).
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// Brackets per reading; one of so many in a row is free of interrupts.
const BRACKETS: usize = 32;

const NS_PER_MS: u128 = 1_000_000;
const PPM: u128 = 1_000_000;

/// A measurement under way; what happens meanwhile only makes it better.
pub(crate) struct TscMeasurement {
    start: Reading,
}

impl TscMeasurement {
    /// Takes the first reading.
    pub(crate) fn start() -> Self {
        Self {
            start: Reading::take(),
        }
    }

    /// Takes the second reading, once [`MIN_INTERVAL`] is over, and returns the frequency.
    ///
    /// Returns `None` for a counter that does not advance with the clock.
    pub(crate) fn finish(self) -> Option<TscFrequency> {
        let elapsed = Duration::from_nanos(clock_ns().saturating_sub(self.start.clock_ns));
        thread::sleep(MIN_INTERVAL.saturating_sub(elapsed));
        frequency(self.start, Reading::take())
    }
}

/// The counter and the clock, read together.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The counter in the middle of the bracket, in ticks.
    ticks: u64,
    /// `CLOCK_MONOTONIC_RAW` in nanoseconds.
    clock_ns: u64,
    /// Ticks between the two reads of the counter.
    width_ticks: u64,
}

impl Reading {
    fn take() -> Self {
        let mut best = Self::bracket();
        for _ in 1..BRACKETS {
            let next = Self::bracket();
            if next.width_ticks < best.width_ticks {
                best = next;
            }
        }
        best
    }

    fn bracket() -> Self {
        let before = read_counter();
        let clock_ns = clock_ns();
        let after = read_counter();
        // A counter that went back makes the widest bracket, which is never kept by choice.
        let width_ticks = after.wrapping_sub(before);
        Self {
            ticks: before.wrapping_add(width_ticks / 2),
            clock_ns,
            width_ticks,
        }
    }
}

/// Returns the frequency that two readings show.
fn frequency(start: Reading, end: Reading) -> Option<TscFrequency> {
    let ticks = u128::from(end.ticks.checked_sub(start.ticks)?);
    let elapsed_ns = u128::from(end.clock_ns.checked_sub(start.clock_ns)?);
    // ticks / ns * 10^6 is ticks per millisecond, which is kilohertz; rounded to the nearest.
    let khz = (ticks * NS_PER_MS + elapsed_ns / 2).checked_div(elapsed_ns)?;
    let uncertain_ticks = u128::from(start.width_ticks) + u128::from(end.width_ticks);
    // Each reading is off by at most half its width; a bound is rounded up.
    let uncertainty_ppm = (uncertain_ticks * PPM).div_ceil((2 * ticks).max(1));
    Some(TscFrequency {
        khz: u64::try_from(khz).ok().filter(|&khz| khz > 0)?,
        uncertainty_ppm: u64::try_from(uncertainty_ppm).ok()?,
    })
}

fn clock_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicRaw);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(nanoseconds)
}

/// Reads the counter, ordered after the instructions before and before those after it.
///
/// RDTSC alone is not ordered (Intel SDM volume 2B, RDTSC; AMD64 APM volume 3, RDTSC).
fn read_counter() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDTSC and LFENCE exist on every x86-64 processor and touch no memory. A process
    // whose counter was taken away by prctl(PR_SET_TSC) gets SIGSEGV, which ends it.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            "lfence",
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWENTY_MS_NS: u64 = 20_000_000;

    fn reading(ticks: u64, clock_ns: u64) -> Reading {
        Reading {
            ticks,
            clock_ns,
            width_ticks: 200,
        }
    }

    #[test]
    fn frequency_is_ticks_per_millisecond() {
        let measured = frequency(reading(1_000, 500), reading(52_001_000, 500 + TWENTY_MS_NS));
        assert_eq!(
            measured,
            Some(TscFrequency {
                khz: 2_600_000,
                uncertainty_ppm: 4
            })
        );
    }

    #[test]
    fn counter_that_goes_back_has_no_frequency() {
        assert_eq!(
            frequency(reading(1_000, 0), reading(999, TWENTY_MS_NS)),
            None
        );
    }

    #[test]
    fn stopped_counter_has_no_frequency() {
        assert_eq!(
            frequency(reading(1_000, 0), reading(1_000, TWENTY_MS_NS)),
            None
        );
    }

    #[test]
    fn clock_that_stands_still_gives_no_frequency() {
        assert_eq!(frequency(reading(0, 7), reading(1_000, 7)), None);
    }
}
