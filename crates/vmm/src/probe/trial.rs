//! The trial's thread: open the device, create the machine, run its programs, tell each event.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use smolvm_protocol::probe::{LoopSpeed, ProbeFailure, ProbeStep};

use super::decide::{MAX_NATIVE_RATIO_PERCENT, Outcome};
use super::device;
use crate::kvm::{CreateEvent, TrialMachine, TrialProgram, errno_failure};
use crate::sys::{LOOP_INSTRUCTIONS, TrialCode};

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

/// Runs of the loop in the guest, when the earlier ones were slow. The first one also pays for
/// mapping the guest's memory, and on a busy host one or two may be interrupted, be it for the
/// 100 ms that a CPU quota can stop a process (cgroup v2 `cpu.max`).
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
fn time_loop(machine: &mut TrialMachine) -> Result<LoopSpeed, ProbeFailure> {
    let native_ns = TrialCode::time_native_loop(NATIVE_ATTEMPTS);
    let mut best = speed(machine.run(TrialProgram::Loop)?, native_ns);
    for _ in 1..GUEST_ATTEMPTS {
        if best.ratio_percent <= MAX_NATIVE_RATIO_PERCENT {
            break;
        }
        let next = speed(machine.run(TrialProgram::Loop)?, native_ns);
        if next.guest_ns < best.guest_ns {
            best = next;
        }
    }
    Ok(best)
}

fn speed(guest_ns: u64, native_ns: u64) -> LoopSpeed {
    LoopSpeed {
        instructions: LOOP_INSTRUCTIONS,
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
        assert_eq!(speed(150_000, 100_000).ratio_percent, 150);
    }
}
