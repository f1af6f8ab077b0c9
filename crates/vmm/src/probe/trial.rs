//! The trial's thread: open the device, create the machine, run its programs, tell each event.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use smolvm_protocol::probe::{LoopSpeed, ProbeFailure, ProbeStep};

use super::decide::{MAX_NATIVE_RATIO_PERCENT, Outcome};
use super::device;
use crate::kvm::{CreateEvent, TrialMachine, TrialProgram, errno_failure};
use crate::sys::{INSTRUCTIONS_PER_ITERATION, TrialCode};

/// What the thread tells, in the order in which it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TrialEvent {
    /// This step is taken next.
    Step(ProbeStep),
    /// KVM states this version of its API.
    ApiVersion(i32),
    /// The loop ran, with the right result.
    LoopTimed(LoopSpeed),
    /// Nothing more follows.
    Ended(Outcome),
}

/// Events of one trial: nine steps, the version, the speed and the end, with room to spare, so
/// that the thread never waits for its listener.
const MAX_EVENTS: usize = 16;

/// Runs of the loop in this process; the first may find the processor at a low frequency.
const NATIVE_ATTEMPTS: u32 = 8;

/// Iterations of the first loop that is timed. On hardware they take some 10 us, several times
/// what entry and exit cost; where ring 0 is interpreted, at one to four million instructions a
/// second, 15 to 60 ms.
const FIRST_ITERATIONS: u64 = 20_000;

/// How much longer the next loop is after a slow one that was short.
const ITERATIONS_GROWTH: u64 = 10;

/// Below this a slow loop can be the price of entry and exit, which is up to 2 ms in a machine
/// nested in a fully emulated one; a longer loop tells them apart.
const SHORT_LOOP_NS: u64 = 10_000_000;

/// Timed runs of the loop in the guest, when the earlier ones were slow: on a busy host one or two
/// may be interrupted, be it for the 100 ms that a CPU quota can stop a process (cgroup v2
/// `cpu.max`).
const GUEST_ATTEMPTS: u32 = 3;

/// Starts a trial and returns the channel of its events.
pub(super) fn spawn() -> Result<Receiver<TrialEvent>, ProbeFailure> {
    let (sender, receiver) = sync_channel(MAX_EVENTS);
    thread::Builder::new()
        .name("trial".to_owned())
        .spawn(move || {
            let outcome = match run(&sender) {
                Ok(()) => Outcome::Completed,
                Err(outcome) => outcome,
            };
            tell(&sender, TrialEvent::Ended(outcome));
        })
        .map_err(|error| errno_failure(&error))?;
    Ok(receiver)
}

fn run(events: &SyncSender<TrialEvent>) -> Result<(), Outcome> {
    tell(events, TrialEvent::Step(ProbeStep::OpenDevice));
    let device = device::open()?;
    let mut machine = TrialMachine::create(device, &mut |event| {
        tell(
            events,
            match event {
                CreateEvent::Step(step) => TrialEvent::Step(step),
                CreateEvent::ApiVersion(version) => TrialEvent::ApiVersion(version),
            },
        );
    })
    .map_err(Outcome::Failed)?;
    tell(events, TrialEvent::Step(ProbeStep::RunLoop));
    let speed = time_loop(&mut machine).map_err(Outcome::Failed)?;
    tell(events, TrialEvent::LoopTimed(speed));
    tell(events, TrialEvent::Step(ProbeStep::RunInstructions));
    machine
        .run(TrialProgram::Instructions)
        .map_err(Outcome::Failed)?;
    Ok(())
}

/// Times the loop natively and in the guest, the latter again as long as it looks slow.
///
/// A run that is not timed comes first: it pays for mapping the guest's memory into the machine.
fn time_loop(machine: &mut TrialMachine) -> Result<LoopSpeed, ProbeFailure> {
    machine.run(TrialProgram::Loop { iterations: 1 })?;
    let mut iterations = FIRST_ITERATIONS;
    let mut best = time_once(machine, iterations)?;
    for _ in 1..GUEST_ATTEMPTS {
        if best.ratio_percent <= MAX_NATIVE_RATIO_PERCENT {
            break;
        }
        iterations = next_iterations(iterations, best.guest_ns);
        let next = time_once(machine, iterations)?;
        if next.ratio_percent < best.ratio_percent {
            best = next;
        }
    }
    Ok(best)
}

fn time_once(machine: &mut TrialMachine, iterations: u64) -> Result<LoopSpeed, ProbeFailure> {
    let native_ns = TrialCode::time_native_loop(iterations, NATIVE_ATTEMPTS);
    let guest_ns = machine.run(TrialProgram::Loop { iterations })?;
    Ok(speed(iterations, guest_ns, native_ns))
}

/// Returns how long the loop is after one that took `guest_ns` and was slow.
fn next_iterations(iterations: u64, guest_ns: u64) -> u64 {
    if guest_ns < SHORT_LOOP_NS {
        iterations * ITERATIONS_GROWTH
    } else {
        iterations
    }
}

fn speed(iterations: u64, guest_ns: u64, native_ns: u64) -> LoopSpeed {
    LoopSpeed {
        instructions: iterations * INSTRUCTIONS_PER_ITERATION,
        guest_ns,
        native_ns,
        ratio_percent: guest_ns.saturating_mul(100) / native_ns.max(1),
    }
}

/// Tells an event; a listener that is gone has already made its report.
fn tell(events: &SyncSender<TrialEvent>, event: TrialEvent) {
    let _ = events.try_send(event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_guest_time_in_percent_of_native_time() {
        assert_eq!(speed(FIRST_ITERATIONS, 150_000, 100_000).ratio_percent, 150);
    }

    #[test]
    fn slow_short_loop_is_followed_by_a_longer_one() {
        let next = next_iterations(FIRST_ITERATIONS, SHORT_LOOP_NS - 1);
        assert_eq!(next, FIRST_ITERATIONS * ITERATIONS_GROWTH);
    }

    #[test]
    fn slow_long_loop_is_repeated_as_it_is() {
        assert_eq!(
            next_iterations(FIRST_ITERATIONS, SHORT_LOOP_NS),
            FIRST_ITERATIONS
        );
    }
}
