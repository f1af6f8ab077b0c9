//! What the program on the host and the one in the guest share.

#![forbid(unsafe_code)]

pub mod disk;
pub mod dns;
pub mod http;
pub mod workload;
