//! What happens on a sandbox's network, as its log tells it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Cause, Verdict};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number of the event in the life of this log, from 0; a gap is announced by [`Event::Lost`].
    pub sequence: u64,
    /// When it happened, in milliseconds since the Unix epoch.
    pub time_unix_ms: u64,
    /// What happened.
    pub event: Event,
    /// The command that a query or connection comes from, by the guest's word; absent where it is
    /// not known. What happens to a connection later has none: it has the connection's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// Something that happened. Names and other text of the guest's are bounded and printable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The guest asked for a name.
    Dns {
        /// The name, in lower case without the final dot.
        name: String,
        /// The type of record asked for, such as `A`.
        record_type: String,
        /// Whether the name may be asked for.
        verdict: Verdict,
        /// How it went, such as `NOERROR` or `NXDOMAIN`, or why there was no answer.
        outcome: String,
        /// Addresses that the guest was given.
        addresses: Vec<IpAddr>,
        /// Addresses that were kept from it, as its policy denies them.
        withheld: Vec<IpAddr>,
    },
    /// The guest asked for a connection, or sent the first datagram of an exchange.
    Connection {
        /// Number of the connection in this log.
        connection: u64,
        /// Its protocol.
        protocol: Protocol,
        /// The guest's end.
        source: SocketAddr,
        /// Where it goes.
        destination: SocketAddr,
        /// The name that the guest had resolved to the destination, or showed in the protocol.
        name: Option<String>,
        /// The sandbox that it goes to; absent where that is no peer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// Whether it may go there.
        verdict: Verdict,
    },
    /// A peer asked for a connection to the guest, or sent the first datagram of an exchange.
    Incoming {
        /// Number of the connection in this log.
        connection: u64,
        /// Its protocol.
        protocol: Protocol,
        /// The sandbox that it comes from.
        peer: String,
        /// What the guest sees of it.
        source: SocketAddr,
        /// The guest's end.
        destination: SocketAddr,
        /// Whether it may come in.
        verdict: Verdict,
    },
    /// A connection that was allowed has shown a name, and the verdict on that.
    Name {
        /// Number of the connection.
        connection: u64,
        /// How the name was shown: `tls` or `http`.
        shown_by: String,
        /// The name; absent where the protocol should have shown one and did not.
        name: Option<String>,
        /// Whether it may go on.
        verdict: Verdict,
    },
    /// A request on a connection whose content the gateway reads.
    Request {
        /// Number of the connection.
        connection: u64,
        /// The method.
        method: String,
        /// The host.
        host: String,
        /// The path, without its query.
        path: String,
        /// The response's status; absent where there was none.
        status: Option<u16>,
        /// Names of the secrets that were put in.
        secrets: Vec<String>,
        /// Whether it may be made.
        verdict: Verdict,
    },
    /// A connection has ended.
    Closed {
        /// Number of the connection.
        connection: u64,
        /// Bytes that the guest sent.
        sent_bytes: u64,
        /// Bytes that it received.
        received_bytes: u64,
        /// How long it lasted, in milliseconds.
        duration_ms: u64,
        /// How it ended, such as `closed` or `connection refused`.
        reason: String,
    },
    /// Frames that are no part of a connection were dropped; told at most once a second for each
    /// reason.
    Dropped {
        /// Why, such as `spoofed source`.
        reason: String,
        /// How many.
        frames: u64,
    },
    /// The policy was changed.
    Policy {
        /// The new one, for people.
        summary: String,
    },
    /// Events are missing here, because they came faster than they could be written.
    Lost {
        /// How many.
        events: u64,
    },
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo.
    Icmp,
}
