//! What the program on the host and the one in the guest of the network's measurements share.

#![forbid(unsafe_code)]

pub mod dns;
pub mod http;
pub mod workload;
