//! Private networks: which ones a sandbox is in, legal by construction, and who else is.
//!
//! A network is there while a sandbox names it. Nothing else is kept of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smolvm_network::PeerName;

use crate::spec::is_legal_name;
use crate::{ErrorKind, Sandbox, SandboxId, StoreError};

/// Why a sandbox cannot be in the networks that are asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetworksError {
    /// The name of a network breaks the rule for names.
    #[error(
        "invalid network name {name:?}: use 1 to 64 of a-z, 0-9, `-` and `_`, with a letter or \
         digit at both ends"
    )]
    Name {
        /// The name as given, cut to a printable length.
        name: String,
    },
    /// There are too many.
    #[error(
        "{count} networks are too many; a sandbox is in {} at most",
        Networks::MAX
    )]
    TooMany {
        /// How many were asked for.
        count: usize,
    },
    /// Nobody could reach the sandbox by its name.
    #[error(
        "sandbox name '{id}' is too long for a network, where a name has 63 characters at most"
    )]
    Member {
        /// The sandbox.
        id: SandboxId,
    },
}

impl NetworksError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

/// Name of a private network; it follows the rule for names of sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

impl NetworkName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkName {
    type Err = NetworksError;

    fn from_str(name: &str) -> Result<Self, NetworksError> {
        if is_legal_name(name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(NetworksError::Name {
                name: name.chars().take(80).collect(),
            })
        }
    }
}

impl TryFrom<String> for NetworkName {
    type Error = NetworksError;

    fn try_from(name: String) -> Result<Self, NetworksError> {
        name.parse()
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The networks that one sandbox is in: each once, in the order in which they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<NetworkName>", into = "Vec<NetworkName>")]
pub struct Networks(Vec<NetworkName>);

impl Networks {
    /// Most networks of one sandbox: each is looked through when a peer connects.
    pub const MAX: usize = 16;

    /// Returns what was asked for, each network once.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn new(asked: impl IntoIterator<Item = NetworkName>) -> Result<Self, NetworksError> {
        let mut networks = Vec::new();
        for name in asked {
            if !networks.contains(&name) {
                networks.push(name);
            }
        }
        if networks.len() > Self::MAX {
            let count = networks.len();
            return Err(NetworksError::TooMany { count });
        }
        Ok(Self(networks))
    }

    /// Returns the networks.
    #[must_use]
    pub fn as_slice(&self) -> &[NetworkName] {
        &self.0
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first network that is among `others`, too.
    pub(crate) fn shared_with(&self, others: &Self) -> Option<&NetworkName> {
        self.0.iter().find(|name| others.0.contains(name))
    }

    /// Checks that the sandbox `id` can be a member.
    pub(crate) fn check_member(&self, id: &SandboxId) -> Result<(), NetworksError> {
        if self.is_empty() || PeerName::new(id.as_str()).is_ok() {
            Ok(())
        } else {
            Err(NetworksError::Member { id: id.clone() })
        }
    }
}

impl TryFrom<Vec<NetworkName>> for Networks {
    type Error = NetworksError;

    fn try_from(asked: Vec<NetworkName>) -> Result<Self, NetworksError> {
        Self::new(asked)
    }
}

impl From<Networks> for Vec<NetworkName> {
    fn from(networks: Networks) -> Self {
        networks.0
    }
}

/// A network with its members, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkMembers {
    /// The network.
    pub name: NetworkName,
    /// All its members, whether they run or not.
    pub members: Vec<SandboxId>,
}

impl Sandbox {
    /// Returns the networks that the sandbox is in, with all their members.
    ///
    /// # Errors
    ///
    /// When it is gone, or the store cannot be read.
    pub fn networks(&self) -> Result<Vec<NetworkMembers>, StoreError> {
        let networks = self.info()?.spec.networks;
        if networks.is_empty() {
            return Ok(Vec::new());
        }
        let sandboxes = self.access().store.list()?;
        let members_of = |name: &NetworkName| {
            let members = sandboxes.iter().map(|info| &info.spec);
            let members = members.filter(|spec| spec.networks.0.contains(name));
            members.map(|spec| spec.id.clone()).collect()
        };
        let described = networks.0.into_iter().map(|name| NetworkMembers {
            members: members_of(&name),
            name,
        });
        Ok(described.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(names: &[&str]) -> Result<Networks, NetworksError> {
        Networks::new(names.iter().map(|name| name.parse().expect("a name")))
    }

    #[test]
    fn network_that_is_named_twice_is_there_once() {
        let twice = networks(&["team", "lab", "team"]).expect("few");
        assert_eq!(twice, networks(&["team", "lab"]).expect("few"));
    }

    #[test]
    fn more_than_a_sandbox_has_are_refused() {
        let names: Vec<String> = (0..=Networks::MAX).map(|n| format!("n{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(networks(&names[1..]).is_ok());
        let error = networks(&names).expect_err("too many");
        assert_eq!(
            error.to_string(),
            "17 networks are too many; a sandbox is in 16 at most"
        );
    }

    #[test]
    fn saved_names_are_looked_at_again() {
        let saved = serde_json::to_string(&networks(&["team"]).expect("few")).expect("saved");
        assert_eq!(saved, r#"["team"]"#);
        assert!(serde_json::from_str::<Networks>(r#"["../team"]"#).is_err());
    }

    #[test]
    fn network_that_two_share_is_the_first_of_the_one_who_asks() {
        let ours = networks(&["a", "b", "c"]).expect("few");
        let theirs = networks(&["c", "b"]).expect("few");
        let shared = ours.shared_with(&theirs).map(NetworkName::as_str);
        assert_eq!(shared, Some("b"));
        assert_eq!(ours.shared_with(&Networks::default()), None);
    }

    #[test]
    fn member_has_a_name_that_dns_can_carry() {
        let id: SandboxId = "x".repeat(64).parse().expect("legal");
        assert!(Networks::default().check_member(&id).is_ok());
        assert!(networks(&["team"]).expect("few").check_member(&id).is_err());
    }
}
