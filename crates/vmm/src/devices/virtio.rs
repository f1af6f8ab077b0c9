//! Virtio devices on memory registers (Virtio 1.3 §4.2).
//!
//! Each device is cut in three, so that each part can be read and tested alone:
//!
//! ```text
//!   [`transport`]   the registers: negotiation, queues, status           entered by processors
//!   [`device`]      what all devices have in common, and their queues
//!   traffic         counting what they pass on
//!   block, console, network, random, balloon
//!                   what one device does with its queues: no threads, no events
//!   `machine::workers`   the threads, the only place that waits for events
//! ```
//!
//! Everything that a driver writes is hostile: a chain of descriptors that makes no sense is
//! answered as far as it can be, and otherwise stops its device, never the machine. What a driver
//! can have a device do at once is bounded, too: buffers of a request, requests of a turn.

pub(crate) mod balloon;
pub(crate) mod block;
pub(crate) mod console;
pub(crate) mod device;
#[cfg(test)]
mod driver;
#[cfg(test)]
mod hostile;
pub(crate) mod network;
pub(crate) mod random;
mod traffic;
pub(crate) mod transport;
