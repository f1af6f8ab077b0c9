//! `smolvm-agent`: PID 1 of every SmolVM guest, and the hands of the host in it.
//!
//! ```text
//!   init ---> boot       kernel modules, disks, mounts, the new root, the agent's port
//!        \--> start_hook   what the image wants to have started
//!         \-> session    yamux on that port; one task for each stream
//!               \-> verbs     one file for each operation of the protocol
//!                     \-> command, reaper, cgroups     what `exec` is made of
//! ```
//!
//! * [`serve`] runs a session over any byte stream, so all but the boot is tested on an ordinary
//!   host, without being PID 1.
//! * `network` is what the host's hello says of the guest's network; `netlink` tells the kernel.
//! * `jobs` are commands that outlive the session, with their output.
//! * `conversation` is the agent's end of one stream: frames in, frames out.
//! * `refusal` turns the kernel's errors into the protocol's.
//! * `identity` tells guests of one recording apart.
//! * `memory_pressure` ends a standstill for want of memory.
//! * `sys` holds all `unsafe`.
//!
//! # Threads
//!
//! One thread runs all tasks. What may block, such as file work and starting a process, runs in
//! tokio's blocking pool, so that one slow operation stalls no other.
//!
//! # Trust
//!
//! The guest's files and processes are hostile to the agent (`/etc/passwd`, FIFOs, a full disk),
//! and the host's bytes are checked as if they were. Neither makes the agent panic or grow.

pub mod init;

mod boot;
mod cgroups;
mod command;
mod conversation;
mod identity;
mod jobs;
mod memory_pressure;
mod netlink;
mod network;
mod port;
mod power_button;
mod reaper;
mod refusal;
mod session;
mod shutdown;
mod start_hook;
mod sys;
mod temporary_file;
mod verbs;

pub use session::{Environment, SessionError, serve};
