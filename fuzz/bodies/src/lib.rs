//! What fuzz targets do with an input, and what must hold then.
//!
//! ```text
//!   fuzz/fuzz_targets/TARGET.rs  under libFuzzer, on nightly ---\
//!                                                                >--- TARGET::run(input)
//!   tests/replay.rs  seeds and fuzz/regressions, on stable -----|
//!   tests/random.rs  seeds that are changed at random, on stable/
//! ```
//!
//! All goes through what the crates make public, as the supervisor uses them: what is fuzzed is what
//! runs. Each target is a module with `run`, which panics when something does not hold, and
//! `seeds`, inputs that are made by code to begin with. Time is that of tokio with its clock paused:
//! what waits ends at once, and an input takes as long as the work it causes.
//!
//! * what a guest sends: `link`, `guest_packets`, `first_bytes`, `dns_query`, `http`, `agent_stream`,
//! * what the network answers: `dns_answer`, and `http` again,
//! * what people write: `policy_rule`, `http_rule`,
//! * what a guest does to its monitor: `virtio_*`, by hostile rings and by registers, and `ports`,
//! * what the monitor is told, and what it loads: `monitor_control`, `kernel_image`,
//! * `gateway`, `runtime`, `seeds`, `script` and `virtio` are shared by several of them.

#![forbid(unsafe_code)]

pub mod agent_stream;
pub mod dns_answer;
pub mod dns_query;
pub mod first_bytes;
mod gateway;
pub mod guest_packets;
pub mod http;
pub mod http_rule;
pub mod kernel_image;
pub mod link;
pub mod monitor_control;
pub mod policy_rule;
pub mod ports;
mod runtime;
mod script;
mod seeds;
mod virtio;
pub mod virtio_balloon;
pub mod virtio_block;
pub mod virtio_console;
pub mod virtio_network;
pub mod virtio_random;
pub mod virtio_registers;

/// A target by its name.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name: of its module, its file in `fuzz/fuzz_targets` and its regressions' directory.
    pub name: &'static str,
    /// What is done with an input.
    pub run: fn(&[u8]),
    /// Returns inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "agent_stream",
        run: agent_stream::run,
        seeds: agent_stream::seeds,
    },
    Target {
        name: "dns_answer",
        run: dns_answer::run,
        seeds: dns_answer::seeds,
    },
    Target {
        name: "dns_query",
        run: dns_query::run,
        seeds: dns_query::seeds,
    },
    Target {
        name: "first_bytes",
        run: first_bytes::run,
        seeds: first_bytes::seeds,
    },
    Target {
        name: "guest_packets",
        run: guest_packets::run,
        seeds: guest_packets::seeds,
    },
    Target {
        name: "http",
        run: http::run,
        seeds: http::seeds,
    },
    Target {
        name: "http_rule",
        run: http_rule::run,
        seeds: http_rule::seeds,
    },
    Target {
        name: "kernel_image",
        run: kernel_image::run,
        seeds: kernel_image::seeds,
    },
    Target {
        name: "link",
        run: link::run,
        seeds: link::seeds,
    },
    Target {
        name: "monitor_control",
        run: monitor_control::run,
        seeds: monitor_control::seeds,
    },
    Target {
        name: "policy_rule",
        run: policy_rule::run,
        seeds: policy_rule::seeds,
    },
    Target {
        name: "ports",
        run: ports::run,
        seeds: ports::seeds,
    },
    Target {
        name: "virtio_balloon",
        run: virtio_balloon::run,
        seeds: virtio_balloon::seeds,
    },
    Target {
        name: "virtio_block",
        run: virtio_block::run,
        seeds: virtio_block::seeds,
    },
    Target {
        name: "virtio_console",
        run: virtio_console::run,
        seeds: virtio_console::seeds,
    },
    Target {
        name: "virtio_network",
        run: virtio_network::run,
        seeds: virtio_network::seeds,
    },
    Target {
        name: "virtio_random",
        run: virtio_random::run,
        seeds: virtio_random::seeds,
    },
    Target {
        name: "virtio_registers",
        run: virtio_registers::run,
        seeds: virtio_registers::seeds,
    },
];
