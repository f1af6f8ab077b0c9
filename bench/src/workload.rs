//! What the program in a guest is told to do, and what it says then: a JSON line each, over the
//! guest's serial port; or one such line as an argument.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::Pattern;

/// What the guest is to do. All addresses are of servers on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Send so many bytes in one connection, and await the answer that they are there.
    Upload {
        /// The HTTP server.
        to: SocketAddr,
        /// How many.
        bytes: u64,
    },
    /// Ask for so many bytes in one connection, and read them.
    Download {
        /// The HTTP server.
        from: SocketAddr,
        /// How many.
        bytes: u64,
    },
    /// Open connections and close them, one after the other.
    Connect {
        /// The HTTP server.
        to: SocketAddr,
        /// How many.
        count: u32,
    },
    /// Send requests without content, one after the other.
    Request {
        /// The HTTP server.
        to: SocketAddr,
        /// How many.
        count: u32,
        /// Whether all go over one connection, rather than one each.
        is_kept_alive: bool,
    },
    /// Ask for addresses of names, one after the other.
    LookUp {
        /// The DNS server.
        server: SocketAddr,
        /// How many.
        count: u32,
    },
    /// Open connections and keep them.
    Hold {
        /// The HTTP server.
        to: SocketAddr,
        /// How many.
        count: u32,
        /// Bytes that each sends and receives.
        bytes: u64,
    },
    /// Close the connections that are kept.
    Release,
    /// Write a file past the page cache.
    WriteFile {
        /// Where it is.
        path: PathBuf,
        /// How.
        pattern: Pattern,
        /// How many bytes.
        bytes: u64,
    },
    /// Read a file past the page cache.
    ReadFile {
        /// Where it is.
        path: PathBuf,
        /// How.
        pattern: Pattern,
        /// How many bytes.
        bytes: u64,
    },
}

/// What the guest says when it has done something, and once before, when it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// It could not be done.
    Failed {
        /// Why not.
        error: String,
    },
}
