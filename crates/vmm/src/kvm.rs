//! Everything that talks to KVM.
//!
//! Today that is the trial machine of the probe: `trial` creates it and runs code in it, `layout`
//! says what lies where in its memory and in which state its processor starts.
//!
//! One of the two places of this crate where `unsafe` is allowed (the other is `sys`). Its rule:
//! memory given to KVM is owned by the struct that owns the virtual machine, and is mapped at
//! least as long.

mod layout;
mod trial;

pub(crate) use trial::{CreateEvent, TrialMachine, TrialProgram, errno_failure};
