//! Looks for placeholders in flows that are not understood, such as those of other protocols.

use std::sync::Arc;

use super::needles::Needles;
use super::spec::SecretSpec;

/// Looks through one direction of one flow, piece by piece.
#[derive(Clone, Debug)]
pub struct PlaceholderScan {
    needles: Needles<Arc<str>>,
    /// The end of the last pieces that may be the beginning of a placeholder.
    held: Vec<u8>,
}

impl PlaceholderScan {
    pub(super) fn new(secrets: &[SecretSpec]) -> Self {
        let texts = secrets
            .iter()
            .map(|secret| (secret.placeholder(), secret.shared_name()));
        Self {
            needles: Needles::new(texts),
            held: Vec::new(),
        }
    }

    /// Tells whether there is anything to look for.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.needles.is_empty()
    }

    /// Takes the next piece, and returns the name of the secret whose placeholder ends in it.
    pub fn push(&mut self, piece: &[u8]) -> Option<Arc<str>> {
        let joined;
        let bytes = if self.held.is_empty() {
            piece
        } else {
            joined = [&self.held, piece].concat();
            &joined
        };
        if let Some(found) = self.needles.find(bytes) {
            return Some(Arc::clone(found.belonging));
        }
        self.held = bytes[bytes.len() - self.needles.begun(bytes)..].to_vec();
        None
    }
}
