//! The parameters of the yamux session between supervisor and agent.
//!
//! Both ends use the same numbers. They bound what a peer that never reads, or one that sends
//! without being asked, can make the other buffer.

/// Bytes a stream's receiver accepts before the sender must wait.
///
/// 256 KiB is yamux's initial window (yamux specification, "Flow Control"), and the smallest
/// that the `yamux` crate offers.
pub const STREAM_WINDOW_BYTES: usize = 256 * 1024;

/// Streams open at once in one sandbox. An end that gets one more breaks the session off.
pub const MAX_STREAMS: usize = 256;

/// Operations the host lets be under way at once in one sandbox.
///
/// Fewer than [`MAX_STREAMS`]: an operation that the host has given up still counts in the guest
/// until its task has noticed.
pub const MAX_OPERATIONS: usize = 192;

/// Bytes all streams of a session may have outstanding together.
///
/// Exactly one window for each stream: the `yamux` crate enlarges a stream's window only from
/// what is left over here, so every stream keeps [`STREAM_WINDOW_BYTES`] and memory stays bounded
/// however fast a guest writes.
pub const SESSION_WINDOW_BYTES: usize = STREAM_WINDOW_BYTES * MAX_STREAMS;
