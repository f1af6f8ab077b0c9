//! From the kernel's handing over to an agent that listens on its port.
//!
//! In the order of use: [`console`] reports, [`mounts`] makes the kernel's file systems visible,
//! [`modules`] loads drivers, [`uevents`] waits for what they find, [`disks`] picks the disks,
//! [`root`] joins them and switches to them, [`hostname`] and [`loopback`] finish the guest, and
//! [`agent_port`] finds the way to the host;
//! [`clock`] times it all and [`entropy`] says when random numbers are what takes so long. [`power`] is the other end of it all.
//!
//! Every step returns a [`BootError`] that says what could not be done. What the guest can live
//! without is reported and does not stop the boot.

pub(crate) mod agent_port;
pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod disks;
pub(crate) mod entropy;
mod error;
pub(crate) mod hostname;
pub(crate) mod loopback;
pub(crate) mod modules;
pub(crate) mod mounts;
pub(crate) mod power;
pub(crate) mod root;
pub(crate) mod uevents;

pub(crate) use error::BootError;
