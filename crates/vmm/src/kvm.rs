//! Everything that talks to KVM.
//!
//! ```text
//!   machine    a virtual machine: memory, interrupts, doorbells
//!   vcpu       a virtual processor: how it starts, what it leaves the guest for
//!   x86        names of the processor's bits
//!   trial      the small machine of the probe; `layout` says what lies where in it
//! ```
//!
//! One of the places of this crate where `unsafe` is allowed (with `memory` and `sys`). Its rule:
//! memory given to KVM is owned by the struct that owns the virtual machine, and is mapped at
//! least as long.

mod layout;
mod machine;
mod trial;
mod vcpu;
pub(crate) mod x86;

pub(crate) use machine::{KvmError, KvmMachine};
pub(crate) use trial::{CreateEvent, TrialMachine, TrialProgram, errno_failure};
pub(crate) use vcpu::{Exit, Vcpu};
