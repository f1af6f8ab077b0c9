//! From what the trial showed to a verdict: a pure function.

use smolvm_protocol::probe::{KvmVerdict, LoopSpeed, ProbeFailure, ProbeStep};

/// Slowest loop that still counts as run by hardware, in percent of its native time.
///
/// Hardware runs the loop at native speed; what is added is one entry and exit, some microseconds
/// on the metal and tens of microseconds nested, against a loop of 10 us or more: a ratio of 1 to
/// 7. Software that interprets each instruction spends 50 cycles and more where hardware spends a
/// third of one: a ratio of 150 and more; 4,000 was measured. Twenty-five lies between the two
/// with room on both sides, and being a ratio it holds on slow, busy and emulated processors
/// alike.
pub(super) const MAX_NATIVE_RATIO_PERCENT: u64 = 2_500;

/// What is known when the trial is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// The last step that was begun.
    pub(super) step: ProbeStep,
    /// The API version, if the trial came so far.
    pub(super) api_version: Option<i32>,
    /// The loop's speed, if it ran with the right result.
    pub(super) loop_speed: Option<LoopSpeed>,
    /// How the trial ended.
    pub(super) outcome: Outcome,
}

/// How a trial ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every step was taken, with right results.
    Completed,
    /// The device may not be opened by this user.
    Denied {
        /// Group that owns the device.
        group_id: u32,
        /// Name of that group.
        group_name: Option<String>,
    },
    /// The last step failed.
    Failed(ProbeFailure),
}

/// Returns what to think of the host's KVM.
pub(super) fn verdict(observed: &Observed) -> KvmVerdict {
    let step = observed.step;
    match (&observed.loop_speed, &observed.outcome) {
        (
            _,
            Outcome::Denied {
                group_id,
                group_name,
            },
        ) => KvmVerdict::NoPermission {
            group_id: *group_id,
            group_name: group_name.clone(),
        },
        (Some(speed), outcome) if speed.ratio_percent > MAX_NATIVE_RATIO_PERCENT => {
            KvmVerdict::Emulated {
                speed: speed.clone(),
                instruction_failure: failure_of(outcome),
            }
        }
        (Some(speed), Outcome::Completed) => KvmVerdict::Usable {
            speed: speed.clone(),
        },
        // A trial does not complete without timing its loop.
        (None, Outcome::Completed) => KvmVerdict::Failing {
            step,
            failure: ProbeFailure::ProbeCrashed,
        },
        (_, Outcome::Failed(failure)) => match (step, errno_of(failure)) {
            (ProbeStep::OpenDevice, Some(ENOENT | ENODEV | ENXIO)) => KvmVerdict::Absent,
            (ProbeStep::OpenDevice | ProbeStep::CreateVm, Some(EBUSY)) => KvmVerdict::Busy { step },
            _ => KvmVerdict::Failing {
                step,
                failure: failure.clone(),
            },
        },
    }
}

// errno(3), as the kernel's asm-generic/errno-base.h numbers them. The device node can exist
// without a driver behind it, which ENODEV and ENXIO tell; EBUSY comes from KVM_CREATE_VM when
// another hypervisor has switched the processor's virtualisation on.
const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;

fn failure_of(outcome: &Outcome) -> Option<ProbeFailure> {
    match outcome {
        Outcome::Failed(failure) => Some(failure.clone()),
        Outcome::Completed | Outcome::Denied { .. } => None,
    }
}

fn errno_of(failure: &ProbeFailure) -> Option<i32> {
    match failure {
        ProbeFailure::Errno { errno, .. } => Some(*errno),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: i32 = 5;
    /// KVM_INTERNAL_ERROR_EMULATION, as an emulating host ends at an unhandled instruction.
    const EMULATION_FAILED: u64 = 1;

    fn errno(errno: i32) -> Outcome {
        Outcome::Failed(ProbeFailure::Errno {
            errno,
            message: String::new(),
        })
    }

    fn stopped(step: ProbeStep, outcome: Outcome) -> KvmVerdict {
        verdict(&Observed {
            step,
            api_version: Some(12),
            loop_speed: None,
            outcome,
        })
    }

    fn speed(ratio_percent: u64) -> LoopSpeed {
        let native_ns = 100_000;
        let guest_ns = native_ns * ratio_percent / 100;
        LoopSpeed {
            instructions: 60_000,
            guest_ns,
            native_ns,
            ratio_percent,
        }
    }

    fn ran(ratio_percent: u64, outcome: Outcome) -> KvmVerdict {
        verdict(&Observed {
            step: ProbeStep::RunInstructions,
            api_version: Some(12),
            loop_speed: Some(speed(ratio_percent)),
            outcome,
        })
    }

    fn internal_error() -> ProbeFailure {
        ProbeFailure::UnexpectedExit {
            reason: "KVM_EXIT_INTERNAL_ERROR".to_owned(),
            detail: Some(EMULATION_FAILED),
        }
    }

    #[test]
    fn loop_near_native_speed_makes_kvm_usable() {
        assert_eq!(
            ran(105, Outcome::Completed),
            KvmVerdict::Usable { speed: speed(105) }
        );
    }

    #[test]
    fn loop_at_the_threshold_still_counts_as_hardware() {
        let at = MAX_NATIVE_RATIO_PERCENT;
        assert_eq!(
            ran(at, Outcome::Completed),
            KvmVerdict::Usable { speed: speed(at) }
        );
    }

    #[test]
    fn loop_above_the_threshold_is_emulated_even_if_every_instruction_runs() {
        let above = MAX_NATIVE_RATIO_PERCENT + 1;
        assert_eq!(
            ran(above, Outcome::Completed),
            KvmVerdict::Emulated {
                speed: speed(above),
                instruction_failure: None
            }
        );
    }

    #[test]
    fn emulated_kvm_names_the_instructions_it_fails_at() {
        assert_eq!(
            ran(100_000, Outcome::Failed(internal_error())),
            KvmVerdict::Emulated {
                speed: speed(100_000),
                instruction_failure: Some(internal_error())
            }
        );
    }

    #[test]
    fn fast_loop_does_not_excuse_failing_instructions() {
        assert_eq!(
            ran(105, Outcome::Failed(internal_error())),
            KvmVerdict::Failing {
                step: ProbeStep::RunInstructions,
                failure: internal_error()
            }
        );
    }

    #[test]
    fn missing_device_is_absent() {
        assert_eq!(
            stopped(ProbeStep::OpenDevice, errno(ENOENT)),
            KvmVerdict::Absent
        );
    }

    #[test]
    fn device_node_without_a_driver_is_absent() {
        assert_eq!(
            stopped(ProbeStep::OpenDevice, errno(ENXIO)),
            KvmVerdict::Absent
        );
        assert_eq!(
            stopped(ProbeStep::OpenDevice, errno(ENODEV)),
            KvmVerdict::Absent
        );
    }

    #[test]
    fn refused_device_names_the_group_that_may_open_it() {
        let denied = Outcome::Denied {
            group_id: 104,
            group_name: Some("kvm".to_owned()),
        };
        assert_eq!(
            stopped(ProbeStep::OpenDevice, denied),
            KvmVerdict::NoPermission {
                group_id: 104,
                group_name: Some("kvm".to_owned())
            }
        );
    }

    #[test]
    fn virtualisation_held_by_another_hypervisor_is_busy() {
        let busy = KvmVerdict::Busy {
            step: ProbeStep::CreateVm,
        };
        assert_eq!(stopped(ProbeStep::CreateVm, errno(EBUSY)), busy);
    }

    #[test]
    fn refused_step_is_named_with_its_error() {
        let failure = ProbeFailure::Errno {
            errno: EIO,
            message: String::new(),
        };
        assert_eq!(
            stopped(ProbeStep::CreateIrqchip, errno(EIO)),
            KvmVerdict::Failing {
                step: ProbeStep::CreateIrqchip,
                failure
            }
        );
    }

    #[test]
    fn wrong_result_of_the_loop_is_failing() {
        let failure = ProbeFailure::WrongResult {
            found: 1,
            expected: 2,
        };
        assert_eq!(
            stopped(ProbeStep::RunLoop, Outcome::Failed(failure.clone())),
            KvmVerdict::Failing {
                step: ProbeStep::RunLoop,
                failure
            }
        );
    }

    #[test]
    fn loop_that_never_ends_is_failing() {
        let failure = ProbeFailure::TimedOut { limit_ms: 1_500 };
        assert_eq!(
            stopped(ProbeStep::RunLoop, Outcome::Failed(failure.clone())),
            KvmVerdict::Failing {
                step: ProbeStep::RunLoop,
                failure
            }
        );
    }
}
