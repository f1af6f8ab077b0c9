//! A limit of bytes, or anything else, per second: a bucket of tokens that fills with time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a bucket fills until it is full. Frames come in bursts, and a limit is of the average.
const BURST: Duration = Duration::from_millis(100);

/// Limits how fast bytes pass. Without a rate, all pass at once.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Bytes per second.
    rate: Option<f64>,
    /// When the bucket will be or was empty; only ever locked for a few instructions.
    empty: Mutex<Instant>,
}

impl Throttle {
    /// Returns a throttle of `bytes_per_second`.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            #[expect(
                clippy::cast_precision_loss,
                reason = "2^53 bytes a second are no limit that anybody could notice"
            )]
            rate: bytes_per_second.map(|rate| rate.max(1) as f64),
            empty: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` may pass.
    pub(crate) async fn take(&self, bytes: usize) {
        if let Some(delay) = self.delay(bytes, Instant::now()) {
            sleep(delay).await;
        }
    }

    /// Takes one out of the bucket if it holds one.
    pub(crate) fn try_take_one(&self) -> bool {
        let now = Instant::now();
        let is_empty = {
            let empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
            *empty > now
        };
        !is_empty && {
            let _next_one_waits = self.delay(1, now);
            true
        }
    }

    /// Takes `bytes` out of the bucket, at `now`. Returns how long to wait until it held them.
    fn delay(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let rate = self.rate?;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
        let full = now.checked_sub(BURST).unwrap_or(now);
        *empty = (*empty).max(full) + Duration::from_secs_f64(f64::from(bytes) / rate);
        empty
            .checked_duration_since(now)
            .filter(|delay| !delay.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn average_is_the_rate_whatever_the_sizes() {
        let throttle = Throttle::new(Some(1_000_000));
        let begun = Instant::now();
        let mut now = begun;
        for size in [1_500, 64_000, 40, 250_000, 684_460] {
            if let Some(delay) = throttle.delay(size, now) {
                now += delay;
            }
        }
        // A million bytes take a second, but for what the full bucket held: nothing, as it was
        // new.
        let took = now - begun;
        assert!(
            took.abs_diff(Duration::from_secs(1)) < Duration::from_millis(1),
            "{took:?}"
        );
    }

    #[tokio::test]
    async fn burst_after_a_pause_passes_at_once() {
        let throttle = Throttle::new(Some(1_000_000));
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(throttle.delay(99_000, later), None);
        assert!(throttle.delay(10_000, later) > Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn without_a_rate_nothing_waits() {
        assert_eq!(Throttle::new(None).delay(usize::MAX, Instant::now()), None);
    }
}
