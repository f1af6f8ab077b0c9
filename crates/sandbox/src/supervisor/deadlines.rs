//! When a sandbox ends by itself: enforced whoever is connected, from when its guest is ready.
//!
//! A sandbox is idle while no operation is under way and no job runs. Operations pass through the
//! supervisor, which counts them; of jobs only the agent knows. It is asked when the idle timeout is
//! over, and so at most once in that time. When a job has ended since the last answer, nobody knows
//! how long ago; it counts as activity until now.

use std::future::pending;
use std::time::Duration;

use smolvm_protocol::message::JobStatus;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::clients::Operations;
use crate::multiplexer::AgentSession;
use crate::text;

/// How long the agent may take to list its jobs. A guest that does not answer is not kept.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The deadlines that a sandbox was given.
#[derive(Debug)]
pub(super) struct Deadlines {
    idle: Option<Duration>,
    max_lifetime: Option<Duration>,
    /// Since when the guest has been ready.
    ready: Instant,
    /// Until when something else than an operation has counted as activity: the boot, or jobs.
    active_until: Instant,
    /// Jobs that had ended when the agent was asked last.
    ended_jobs: usize,
    /// The agent's answer, on its way.
    jobs: Option<AbortOnDropHandle<Vec<JobStatus>>>,
}

impl Deadlines {
    /// Returns the deadlines of a guest, which [`Deadlines::ready`] lets begin.
    pub(super) fn new(idle_ms: Option<u64>, max_lifetime_ms: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            idle: idle_ms.map(Duration::from_millis),
            max_lifetime: max_lifetime_ms.map(Duration::from_millis),
            ready: now,
            active_until: now,
            ended_jobs: 0,
            jobs: None,
        }
    }

    /// Takes note that the guest is ready: until now, the time it has to come up was what counted.
    pub(super) fn ready(&mut self) {
        self.ready = Instant::now();
        self.active_until = self.ready;
    }

    /// Waits until a deadline has passed, and returns why the sandbox ends. Cancel-safe. A guest
    /// that stands still has no `agent` to ask, and its jobs do not run.
    pub(super) async fn passed(
        &mut self,
        operations: &Operations,
        agent: Option<&AgentSession>,
    ) -> String {
        let lifetime = self.max_lifetime;
        let end_of_life = lifetime.and_then(|lifetime| self.ready.checked_add(lifetime));
        tokio::select! {
            () = until(end_of_life) => {
                let limit = lifetime.unwrap_or_default();
                format!("reached its maximum lifetime of {}", shown(limit))
            }
            limit = self.idle(operations, agent) => format!("was idle for {}", shown(limit)),
        }
    }

    /// Waits until nothing has happened for as long as is allowed, which it returns.
    async fn idle(&mut self, operations: &Operations, agent: Option<&AgentSession>) -> Duration {
        let Some(limit) = self.idle else {
            return pending().await;
        };
        loop {
            // While an operation is under way, nobody tells when it ends; when this time comes,
            // it is known when it did.
            let since = self.idle_since(operations).unwrap_or_else(Instant::now);
            until(since.checked_add(limit)).await;
            let is_over = |since: Instant| since.elapsed() >= limit;
            if self.idle_since(operations).is_some_and(is_over) {
                self.count_jobs(agent).await;
                // Operations may have come and gone meanwhile.
                if self.idle_since(operations).is_some_and(is_over) {
                    return limit;
                }
            }
        }
    }

    /// Returns since when nothing has been under way; `None` while an operation is.
    fn idle_since(&self, operations: &Operations) -> Option<Instant> {
        Some(operations.idle_since()?.max(self.active_until))
    }

    /// Asks the agent for its jobs. They count until now if one runs or has ended since.
    async fn count_jobs(&mut self, agent: Option<&AgentSession>) {
        let jobs = match agent {
            Some(agent) => {
                let ask = || AbortOnDropHandle::new(tokio::spawn(jobs(agent.clone())));
                self.jobs.get_or_insert_with(ask).await.unwrap_or_default()
            }
            None => Vec::new(),
        };
        self.jobs = None;
        let ended_jobs = jobs.iter().filter(|job| job.exit.is_some()).count();
        if ended_jobs < jobs.len() || ended_jobs > self.ended_jobs {
            self.active_until = Instant::now();
        }
        self.ended_jobs = ended_jobs;
    }
}

/// Returns the jobs there are; none of an agent that does not say.
async fn jobs(agent: AgentSession) -> Vec<JobStatus> {
    match timeout(ANSWER_PATIENCE, agent.list_jobs()).await {
        Ok(Ok(jobs)) => jobs,
        Ok(Err(error)) => {
            tracing::warn!(error = %text::chain(&error), "agent not asked for jobs");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!("agent silent when asked for jobs");
            Vec::new()
        }
    }
}

/// Waits for a time; forever for none, which is what a deadline of centuries comes to.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

fn shown(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f64())
}
