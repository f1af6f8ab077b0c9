//! What was found in a request, which its streaming body may still add to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::action::SecretRefused;

/// Names of secrets found in one request, shared by its head, its body and who tells of it.
///
/// The lock guards the two fields, and is held for single operations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    put: BTreeSet<Arc<str>>,
    refused: Option<SecretRefused>,
}

impl Findings {
    pub(super) fn add_put(&self, name: Arc<str>) {
        self.state().put.insert(name);
    }

    pub(super) fn set_refused(&self, refused: &SecretRefused) {
        self.state().refused = Some(refused.clone());
    }

    /// Returns the names of the secrets that were put in.
    pub(crate) fn put(&self) -> Vec<String> {
        self.state().put.iter().map(ToString::to_string).collect()
    }

    /// Returns the secret that was refused.
    pub(crate) fn refused(&self) -> Option<SecretRefused> {
        self.state().refused.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
