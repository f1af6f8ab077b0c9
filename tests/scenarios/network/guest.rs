//! What guests run: Python programs that print what came of it as JSON.

/// Tries destinations, each `PROTOCOL HOST PORT`; prints what came of each.
pub(super) const REACH: &str = include_str!("guest/reach.py");

/// Speaks TLS and HTTP as no well-behaved client does.
pub(super) const TALK: &str = include_str!("guest/talk.py");

/// What connections do that programs seldom think of.
pub(super) const SHAPES: &str = include_str!("guest/shapes.py");

/// A WebSocket and server-sent events.
pub(super) const STREAMS: &str = include_str!("guest/streams.py");

/// Frames that no kernel makes.
pub(super) const FRAMES: &str = include_str!("guest/frames.py");

/// Serves TCP and UDP in the background, for peers and for the guest itself.
pub(super) const SERVE: &str = include_str!("guest/serve.py");

/// Sends datagrams to a peer from any address.
pub(super) const FORGE: &str = include_str!("guest/forge.py");
