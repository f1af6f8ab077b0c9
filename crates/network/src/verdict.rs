//! What a policy has decided, and by which rule.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A decision with the rule that took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it is allowed.
    pub is_allowed: bool,
    /// The rule: as its author wrote it, or the name of a built-in one such as
    /// `built-in: loopback of the host`.
    pub rule: Arc<str>,
}

impl Verdict {
    /// Returns a verdict that allows.
    #[must_use]
    pub fn allowed(rule: impl Into<Arc<str>>) -> Self {
        Self {
            is_allowed: true,
            rule: rule.into(),
        }
    }

    /// Returns a verdict that denies.
    #[must_use]
    pub fn denied(rule: impl Into<Arc<str>>) -> Self {
        Self {
            is_allowed: false,
            rule: rule.into(),
        }
    }
}
