//! The guest's network, as the host's hello describes it.
//!
//! ```text
//!   hello --> driver is there --> interface: MTU, addresses, routes --> files: names
//!         \-> trust: the certificate authority of the host's gateway
//! ```
//!
//! Each hello sets up everything that it names, whatever was there before: a guest that was
//! restored or forked gets another identity in this way. Doing it twice changes nothing.
//!
//! A host must not be left to believe in a network that is not there, so every failure is an
//! error, and the hello is refused.

mod files;
mod interface;
pub(crate) mod trust;

use std::io;
use std::path::{Path, PathBuf};

use smolvm_protocol::message::GuestNetwork;

/// What of a guest's network could not be set up. The message carries its cause: it is for the
/// host's eyes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("the guest has no interface with the address {mac}")]
    NoInterface { mac: String },
    #[error("the guest's kernel does not take the {what}: {source}")]
    Interface { what: String, source: io::Error },
    #[error("{} cannot be written: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// Sets up what `network` says. Blocks.
///
/// Preconditions: the driver of the network device is loaded.
pub(crate) fn set_up(network: &GuestNetwork) -> Result<(), NetworkError> {
    interface::configure(network)?;
    files::write_names(Path::new("/"), network)
}
