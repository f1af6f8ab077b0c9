//! The policy of a running sandbox, which changes while it runs.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Decider, NetworkPolicy};

/// The policy in force, shared by the parts of a gateway.
#[derive(Clone, Debug)]
pub struct PolicyHandle(Arc<watch::Sender<Arc<Decider>>>);

impl PolicyHandle {
    /// Returns a handle on a policy.
    #[must_use]
    pub fn new(policy: &NetworkPolicy) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(Decider::new(policy)))))
    }

    /// Returns the policy that is in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Decider> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts another policy in force.
    pub fn set(&self, policy: &NetworkPolicy) {
        self.0.send_replace(Arc::new(Decider::new(policy)));
    }

    /// Returns a receiver that tells when the policy changes, for who holds on to decisions.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Decider>> {
        self.0.subscribe()
    }
}
