//! The host: its processor's time stamp counter and `cpuid`, the trial code run natively, and the
//! sockets this process was started with.
//!
//! One of the two places of this crate where `unsafe` is allowed (the other is `kvm`). Its rule:
//! a function here is safe to call on every x86-64 Linux host, or says under `# Safety` when not.

#[cfg(test)]
mod attempts;
mod cpu;
mod inherited;
mod trial_code;
mod tsc;

#[cfg(test)]
pub(crate) use attempts::{be_traced, executable_page};
pub(crate) use cpu::virtualization;
pub(crate) use inherited::inherited_socket;
pub(crate) use trial_code::{EXIT_PORT, EntryPoint, INSTRUCTIONS_PER_ITERATION, TrialCode};
pub(crate) use tsc::TscMeasurement;
