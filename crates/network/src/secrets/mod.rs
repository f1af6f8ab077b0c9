//! Secrets that never enter the guest.
//!
//! The guest has a placeholder, which is worth nothing. The gateway puts the value in its place in
//! requests that it intercepts, to the secret's own hosts only:
//!
//! ```text
//!   guest --- Authorization: Bearer smolvm-secret-KEY-4f2e... ---> gateway
//!   gateway, to api.example.com over TLS: Authorization: Bearer sk-live-...
//!   gateway, to anyone else:              403, and the log names KEY
//! ```
//!
//! * `spec`: one secret, and what is legal,
//! * `needles`: texts that are looked for,
//! * `rewriter`: replaces them in a stream of pieces,
//! * `action`: what is done with one that is found, and `findings` what was,
//! * `exchange`: what is done to requests and responses of one host,
//! * `scan`: looks for placeholders in what the gateway does not understand.
//!
//! # What is replaced, and what is not
//!
//! In requests: header values, the content of `Authorization: Basic`, path, query, trailers, and
//! bodies that are not compressed; those of a declared length up to
//! [`MAX_REWRITTEN_BODY_BYTES`], as their length changes. A longer one is refused when it has a
//! placeholder in it, and so is a request with one in its method, its host or the name of a header.
//! Messages of an upgraded connection are not looked into: WebSocket masks them.
//!
//! In responses of a secret's host, where it may be echoed: the value becomes the placeholder in
//! headers, and asterisks of the same length in bodies, so that their length stays. The host is
//! asked not to compress. A value that is echoed in base64 passes: a secret's host is trusted not
//! to hand it out.

mod action;
mod exchange;
mod findings;
mod needles;
mod rewriter;
mod scan;
mod spec;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use action::SecretRefused;
pub use exchange::MAX_REWRITTEN_BODY_BYTES;
pub(crate) use exchange::{Exchange, is_compressed};
pub(crate) use findings::Findings;
pub(crate) use rewriter::Rewriter;
pub use scan::PlaceholderScan;
pub use spec::{SecretError, SecretSpec};

use crate::Name;

/// The secrets of a sandbox.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Arc<[SecretSpec]>);

impl Secrets {
    /// Returns these secrets.
    #[must_use]
    pub fn new(secrets: Vec<SecretSpec>) -> Self {
        Self(secrets.into())
    }

    /// Tells whether a secret may be sent to this host, so that it must be intercepted.
    #[must_use]
    pub fn concern(&self, host: &Name) -> bool {
        self.0.iter().any(|secret| secret.is_for(host))
    }

    /// Returns a scan for the placeholders in a flow.
    #[must_use]
    pub fn scan(&self) -> PlaceholderScan {
        PlaceholderScan::new(&self.0)
    }

    /// Returns what is done to the requests of a connection that is intercepted, to `host`.
    pub(crate) fn toward(&self, host: &Name) -> Exchange {
        Exchange::new(&self.0, Some(host))
    }

    /// Returns what is done to the requests of a connection without TLS: nothing is put in.
    pub(crate) fn in_clear(&self) -> Exchange {
        Exchange::new(&self.0, None)
    }
}
