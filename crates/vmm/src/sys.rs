//! The host's processor: time stamp counter, `cpuid`, and the trial code run natively.
//!
//! One of the two places of this crate where `unsafe` is allowed (the other is `kvm`). Its rule:
//! a function here is safe to call on every x86-64 Linux host, or says under `# Safety` when not.

mod cpu;
mod trial_code;
mod tsc;

pub(crate) use cpu::virtualization;
pub(crate) use trial_code::{EXIT_PORT, EntryPoint, INSTRUCTIONS_PER_ITERATION, TrialCode};
pub(crate) use tsc::TscMeasurement;
