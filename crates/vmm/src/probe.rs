//! The probe: runs a short guest on the host's KVM and says what to think of it.
//!
//! ```text
//!   run ── spawns ──> thread: device::open -> kvm::TrialMachine ── events ──┐
//!    │                                                                      v
//!    └── collects events until the end, or until TIME_LIMIT ──> decide::Observed -> verdict
//! ```
//!
//! A verdict comes from running, never from processor flags: there are hosts whose `/dev/kvm`
//! opens and creates machines and then interprets their ring 0 in software, a thousand times
//! slower than hardware and without some instructions every kernel needs.
//!
//! # Threads and time
//!
//! The trial has a thread of its own. When [`TIME_LIMIT`] is over, the report is made from what
//! the thread has told so far, and the thread ends with the process. A thread that the kernel
//! does not let go keeps the process, and its standard output, open; readers therefore take the
//! report from its one line, not from the end of the output.

mod decide;
mod device;
mod trial;

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

pub use smolvm_protocol::probe::{KvmVerdict, PROBE_VERSION, ProbeReport};
use smolvm_protocol::probe::{ProbeFailure, ProbeStep};

use crate::sys::{self, TscMeasurement};
use decide::{Observed, Outcome};
use trial::TrialEvent;

/// Longest time the trial may take. On hardware it takes milliseconds, most of them to create the
/// machine, and where ring 0 is interpreted some 150 ms; with the counter's 20 ms the process
/// stays below two seconds.
pub const TIME_LIMIT: Duration = Duration::from_millis(1_500);

/// Probes the host.
pub fn run() -> ProbeReport {
    let tsc = TscMeasurement::start();
    let observed = match trial::spawn() {
        Ok(events) => observe(&events, Instant::now() + TIME_LIMIT),
        Err(failure) => Observed {
            step: ProbeStep::OpenDevice,
            api_version: None,
            loop_speed: None,
            outcome: Outcome::Failed(failure),
        },
    };
    ProbeReport {
        version: PROBE_VERSION,
        kvm: decide::verdict(&observed),
        kvm_api_version: observed.api_version,
        cpu: sys::virtualization(),
        tsc: tsc.finish(),
    }
}

/// Collects what the trial tells, until it ends or `deadline` is over.
fn observe(events: &Receiver<TrialEvent>, deadline: Instant) -> Observed {
    let mut step = ProbeStep::OpenDevice;
    let mut api_version = None;
    let mut loop_speed = None;
    let outcome = loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(TrialEvent::Step(next)) => step = next,
            Ok(TrialEvent::ApiVersion(version)) => api_version = Some(version),
            Ok(TrialEvent::LoopTimed(speed)) => loop_speed = Some(speed),
            Ok(TrialEvent::Ended(outcome)) => break outcome,
            Err(RecvTimeoutError::Timeout) => break Outcome::Failed(timed_out()),
            Err(RecvTimeoutError::Disconnected) => {
                break Outcome::Failed(ProbeFailure::ProbeCrashed);
            }
        }
    };
    Observed {
        step,
        api_version,
        loop_speed,
        outcome,
    }
}

fn timed_out() -> ProbeFailure {
    let limit_ms = u64::try_from(TIME_LIMIT.as_millis()).unwrap_or(u64::MAX);
    ProbeFailure::TimedOut { limit_ms }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn silent_trial_times_out_at_its_last_step() {
        let (sender, events) = sync_channel(1);
        sender
            .send(TrialEvent::Step(ProbeStep::RunLoop))
            .expect("the channel has room");
        let observed = observe(&events, Instant::now());
        assert_eq!(observed.step, ProbeStep::RunLoop);
        assert_eq!(observed.outcome, Outcome::Failed(timed_out()));
    }

    #[test]
    fn trial_that_ends_without_a_word_has_crashed() {
        let (sender, events) = sync_channel(1);
        sender
            .send(TrialEvent::Step(ProbeStep::CreateVm))
            .expect("the channel has room");
        drop(sender);
        let observed = observe(&events, Instant::now() + TIME_LIMIT);
        assert_eq!(observed.step, ProbeStep::CreateVm);
        assert_eq!(
            observed.outcome,
            Outcome::Failed(ProbeFailure::ProbeCrashed)
        );
    }
}
