//! Names of peers, as guests and rules have them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Name, NameError};

/// The domain with the peers of a sandbox: `db.peer.smolvm.internal` is the sandbox `db`. Within the
/// reserved domain, it is nobody else's, and no sandbox's name hides one of the gateway's own.
pub const PEER_DOMAIN: &str = "peer.smolvm.internal";

/// A name without a domain that means the guest itself to everybody (RFC 6761 §6.3).
const LOCALHOST: &str = "localhost";

/// The name of a sandbox in its private networks: one label of a DNS name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerName(Arc<str>);

impl PeerName {
    /// Returns the name of a sandbox.
    ///
    /// # Errors
    ///
    /// When it is not a single label, which has at most 63 bytes.
    pub fn new(label: &str) -> Result<Self, NameError> {
        if label.contains('.') {
            return Err(NameError::Character);
        }
        let full = Name::from_ascii(&format!("{label}.{PEER_DOMAIN}"))?;
        let (label, _) = full.as_str().split_once('.').unwrap_or_default();
        Ok(Self(label.into()))
    }

    /// Returns the peer that a guest means by a DNS name, which need not exist: `db` in full, or
    /// by itself. A name with a dot is never a peer's outside [`PEER_DOMAIN`].
    #[must_use]
    pub fn meant_by(name: &Name) -> Option<Self> {
        let name = name.as_str();
        let label = match name.strip_suffix(PEER_DOMAIN) {
            Some(rest) => rest.strip_suffix('.')?,
            None if name == LOCALHOST => return None,
            None => name,
        };
        Self::new(label).ok()
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the DNS names that mean the peer, the full one first. One that is a number is no
    /// name by itself.
    #[must_use]
    pub fn dns_names(&self) -> Vec<Name> {
        let full = format!("{self}.{PEER_DOMAIN}");
        [full.as_str(), self.as_str()]
            .into_iter()
            .filter(|&name| name != LOCALHOST)
            .filter_map(|name| Name::from_ascii(name).ok())
            .collect()
    }
}

impl TryFrom<String> for PeerName {
    type Error = NameError;

    fn try_from(label: String) -> Result<Self, NameError> {
        Self::new(&label)
    }
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant_by(name: &str) -> Option<String> {
        PeerName::meant_by(&name.parse().expect("a name")).map(String::from)
    }

    #[test]
    fn peer_is_meant_by_its_full_name_and_by_itself() {
        assert_eq!(meant_by("db").as_deref(), Some("db"));
        assert_eq!(meant_by("DB.").as_deref(), Some("db"));
        assert_eq!(meant_by("db.peer.smolvm.internal").as_deref(), Some("db"));
        assert_eq!(meant_by("7.peer.smolvm.internal").as_deref(), Some("7"));
    }

    #[test]
    fn names_of_others_mean_no_peer() {
        for name in [
            "db.example",
            "db.internal",
            "db.smolvm.internal",
            "host.smolvm.internal",
            "gateway.smolvm.internal",
            "a.db.peer.smolvm.internal",
            "peer.smolvm.internal",
            "dbpeer.smolvm.internal",
            "localhost",
        ] {
            assert_eq!(meant_by(name), None, "{name}");
        }
    }

    #[test]
    fn name_is_a_label_of_dns() {
        assert!(PeerName::new(&"x".repeat(63)).is_ok());
        for label in ["", "a.b", "a b", "../x", &"x".repeat(64)] {
            assert!(PeerName::new(label).is_err(), "{label:?}");
        }
    }

    #[test]
    fn number_is_no_name_by_itself() {
        let names = |label: &str| PeerName::new(label).expect("a label").dns_names();
        assert_eq!(names("7").len(), 1);
        assert_eq!(names("localhost").len(), 1);
        let both: Vec<String> = names("db").iter().map(Name::to_string).collect();
        assert_eq!(both, ["db.peer.smolvm.internal", "db"]);
    }
}
