//! The language that SmolVM's host side and its guest agent speak: messages, and the frames that
//! carry them. No I/O, no unsafe, no decisions.
//!
//! ```text
//!   client ---- Unix socket, one connection per operation ----> supervisor      [`control`]
//!   client ==== bytes relayed unread by the supervisor =======> agent           [`message`]
//!   supervisor <==== one byte stream, multiplexed by yamux ===> agent
//! ```
//!
//! The host and the agent share one byte stream (a virtio-console port named [`AGENT_PORT`]).
//! yamux divides it into streams; the host is the yamux client and opens every stream. A stream
//! carries exactly one operation: the host sends one [`message::Request`], then both sides send
//! frames as the request's documentation says, then the stream is closed.
//!
//! # Compatibility
//!
//! An agent can be older than its host (a kept sandbox, a snapshot), so the host adapts. Both
//! sides state their [`GENERATION`] in the hello. Messages are MessagePack maps with named
//! fields: a field may be added with a default; a field is never removed and never changes its
//! type; a new operation is a new [`message::Request`] variant, which an older agent answers with
//! [`message::RefusalCode::UnknownRequest`].
//!
//! # Trust
//!
//! Each side treats the other's bytes as hostile: a length is checked before anything is
//! allocated for it, and no input makes decoding panic.

#![forbid(unsafe_code)]

pub mod control;
mod frame;
pub mod message;
pub mod multiplex;
pub mod probe;
pub mod vmm;

pub use frame::{
    FRAME_HEADER_BYTES, Frame, FrameCodec, FrameError, FrameKind, MAX_DATA_BYTES, MAX_MESSAGE_BYTES,
};

/// Name of the virtio-console port that carries the agent stream.
///
/// The guest finds the device by `/sys/class/virtio-ports/*/name`.
pub const AGENT_PORT: &str = "org.smolvm.agent.0";

/// Generation of the agent protocol that this build speaks.
///
/// It grows by one whenever an operation or a field is added.
pub const GENERATION: u32 = 1;

/// Oldest generation that this build still understands.
pub const OLDEST_GENERATION: u32 = 1;

/// virtio-blk serial of the disk that holds the read-only root image.
///
/// At most 20 bytes (Virtio 1.2 §5.2.6.1: `VIRTIO_BLK_ID_BYTES`).
pub const ROOT_DISK_SERIAL: &str = "smolvm-root";

/// virtio-blk serial of the disk that holds the writable overlay.
pub const OVERLAY_DISK_SERIAL: &str = "smolvm-overlay";

/// Kernel command line parameter that carries the guest's host name.
pub const HOSTNAME_PARAMETER: &str = "smolvm.hostname";

/// Kernel command line parameter that says how the root image is used: [`ROOT_SHARED`], or read-only
/// below the overlay disk when it is absent.
pub const ROOT_PARAMETER: &str = "smolvm.root";

/// Value of [`ROOT_PARAMETER`] for a guest that writes to the root image itself. There is no overlay
/// disk then.
pub const ROOT_SHARED: &str = "shared";

/// Directory of the initramfs that holds the kernel modules to load.
pub const MODULE_DIRECTORY: &str = "/modules";

/// File of the initramfs that lists the modules the boot waits for: one file name of
/// [`MODULE_DIRECTORY`] per line, in loading order.
pub const BOOT_MODULE_LIST: &str = "/modules/boot.list";

/// File of the initramfs that lists the modules loaded once the agent has answered.
pub const LATE_MODULE_LIST: &str = "/modules/late.list";

/// File of the initramfs that lists the modules loaded where the machine has a network device.
pub const NETWORK_MODULE_LIST: &str = "/modules/network.list";

/// File of the initramfs that lists the modules by which the kernel tells of its sockets, loaded when
/// somebody asks about one.
pub const SOCKET_MODULE_LIST: &str = "/modules/sockets.list";
