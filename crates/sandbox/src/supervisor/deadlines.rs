//! When a sandbox ends by itself.

use std::time::Duration;

use tokio::time::Instant;

use super::clients::Operations;

/// The deadlines that a sandbox was given. Enforced whoever is connected, from when the guest is
/// ready: until then the time it has to come up is what counts.
#[derive(Debug)]
pub(super) struct Deadlines {
    idle: Option<Duration>,
    max_lifetime: Option<Duration>,
    ready: Instant,
}

impl Deadlines {
    /// Returns the deadlines of a guest that is ready now.
    pub(super) fn new(idle_ms: Option<u64>, max_lifetime_ms: Option<u64>) -> Self {
        Self {
            idle: idle_ms.map(Duration::from_millis),
            max_lifetime: max_lifetime_ms.map(Duration::from_millis),
            ready: Instant::now(),
        }
    }

    /// Returns when to look again. A deadline of centuries is none.
    pub(super) fn next(&self, operations: &Operations) -> Option<Instant> {
        // While something is under way, nobody tells when it ends; when this time comes, it is
        // known when it did.
        let idle_since = self.idle_since(operations).unwrap_or_else(Instant::now);
        let idle = self.idle.and_then(|idle| idle_since.checked_add(idle));
        let end = self.end_of_life();
        idle.into_iter().chain(end).min()
    }

    /// Returns why the sandbox ends, when a deadline has passed.
    pub(super) fn passed(&self, operations: &Operations) -> Option<String> {
        if self.end_of_life().is_some_and(|end| end <= Instant::now()) {
            let limit = self.max_lifetime.unwrap_or_default();
            return Some(format!("reached its maximum lifetime of {}", shown(limit)));
        }
        let idle = self.idle?;
        let has_passed = self.idle_since(operations)?.elapsed() >= idle;
        has_passed.then(|| format!("was idle for {}", shown(idle)))
    }

    fn idle_since(&self, operations: &Operations) -> Option<Instant> {
        Some(operations.idle_since()?.max(self.ready))
    }

    fn end_of_life(&self) -> Option<Instant> {
        self.ready.checked_add(self.max_lifetime?)
    }
}

fn shown(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f64())
}
