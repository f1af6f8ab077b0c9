//! The machine's devices, as its processors see them.
//!
//! ```text
//!   port 0x3f8  [`serial`]      the console
//!   port 0x600  [`power`]       sleep and reset
//!   memory      [`generation`]  a number that tells copies of the machine apart
//!   0xd0000000  [`virtio`]      everything else
//! ```
//!
//! A processor's thread calls in here when the guest touches a register; what takes time is done
//! by the devices' own threads (`machine::workers`).

pub(crate) mod generation;
pub(crate) mod power;
pub(crate) mod serial;
pub(crate) mod virtio;
