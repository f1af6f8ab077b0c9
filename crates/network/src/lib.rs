//! The network of a sandbox, in user space: Ethernet frames of the guest come in, sockets of the
//! host go out, and a policy decides between the two.

#![forbid(unsafe_code)]

mod event;
mod event_log;
mod verdict;

pub use event::{Event, Protocol, Record};
pub use event_log::{EventLog, EventSink};
pub use verdict::Verdict;
