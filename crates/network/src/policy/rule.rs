//! One rule of a policy, and its text.
//!
//! ```text
//!   allow api.example.com               deny  203.0.113.0/24
//!   allow *.example.com:443             allow 10.0.0.0/8:5432,6000-6100/tcp
//!   allow host.smolvm.internal:8080     allow [2001:db8::/32]:443/udp
//!   |     |                    |                                  |
//!   action  target             ports (optional)                   protocol (optional)
//! ```
//!
//! Peers need no rule to be allowed, so rules about them deny: the way out as any name does, `deny
//! db.peer.smolvm.internal:5432`, and the way in with one word more, `deny from web:5432`, where the
//! ports are the guest's own.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::name::{HOST_NAME, NamePattern};
use crate::{PEER_DOMAIN, PeerName, Protocol};

mod parse;
#[cfg(test)]
mod tests;

pub use parse::{RuleError, RuleProblem};

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// What matches is allowed.
    Allow,
    /// What matches is denied, whatever else allows it.
    Deny,
}

impl Action {
    /// Returns the protocols that a rule is about when it does not say: what a name or an address
    /// is mostly allowed for, and all there is to deny.
    const fn default_transport(self) -> Transport {
        match self {
            Self::Allow => Transport::Only(Protocol::Tcp),
            Self::Deny => Transport::Any,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// Who opens the connections that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The guest, to the target.
    To,
    /// The target, which is a peer, to the guest.
    From,
}

/// Whom the traffic is with that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// With names that this sandbox resolved, or with peers.
    Name(NamePattern),
    /// With addresses.
    Network(IpNet),
}

/// Which ports a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Tells whether the rule is about every port.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether the rule is about this port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.is_all()
            || self
                .0
                .iter()
                .any(|&(first, last)| (first..=last).contains(&port))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { ":" } else { "," })?;
            if first == last {
                write!(f, "{first}")?;
            } else {
                write!(f, "{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Which protocols a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// This one.
    Only(Protocol),
    /// All of them.
    Any,
}

impl Transport {
    /// Tells whether the rule is about this protocol.
    #[must_use]
    pub fn contains(self, protocol: Protocol) -> bool {
        match self {
            Self::Only(only) => only == protocol,
            Self::Any => true,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Only(Protocol::Tcp) => "tcp",
            Self::Only(Protocol::Udp) => "udp",
            Self::Only(Protocol::Icmp) => "icmp",
            Self::Any => "any",
        })
    }
}

/// A rule. Made from its text, which is also how it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    action: Action,
    direction: Direction,
    target: Target,
    ports: Ports,
    transport: Transport,
}

impl Rule {
    /// Returns the rule's text without its action.
    #[must_use]
    pub fn subject(&self) -> String {
        let text = self.to_string();
        text.split_once(' ')
            .map_or(String::new(), |(_, subject)| subject.to_owned())
    }

    /// Returns what the rule does.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Returns who opens the connections that it is about.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Returns whom the traffic is with that it is about.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Tells whether the rule is about this port of this protocol. Echo has port 0.
    #[must_use]
    pub fn covers(&self, protocol: Protocol, port: u16) -> bool {
        self.transport.contains(protocol) && self.ports.contains(port)
    }

    /// Tells whether the rule is about everything at its target.
    #[must_use]
    pub fn covers_all(&self) -> bool {
        self.transport == Transport::Any && self.ports.is_all()
    }

    /// Tells whether the rule is about [`HOST_NAME`].
    fn is_about_host(&self) -> bool {
        matches!(&self.target, Target::Name(NamePattern::Exact(name)) if name.as_str() == HOST_NAME)
    }

    /// Tells whether the rule is about peers and nobody else.
    fn is_about_peers(&self) -> bool {
        match &self.target {
            Target::Name(NamePattern::Exact(name)) => name.is_within(PEER_DOMAIN),
            Target::Name(NamePattern::Below(domain)) => domain.is_within(PEER_DOMAIN),
            Target::Name(NamePattern::Any) | Target::Network(_) => false,
        }
    }

    /// Tells whether the target can be a peer: `*`, `web`, or a name of [`PEER_DOMAIN`].
    fn has_peers(&self) -> bool {
        match &self.target {
            Target::Name(NamePattern::Any) => true,
            Target::Name(NamePattern::Exact(name)) => PeerName::meant_by(name).is_some(),
            Target::Name(NamePattern::Below(domain)) => domain.as_str() == PEER_DOMAIN,
            Target::Network(_) => false,
        }
    }

    /// Returns the text for verdicts, which many of them share.
    pub(super) fn shared_text(&self) -> Arc<str> {
        self.to_string().into()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.action)?;
        if self.direction == Direction::From {
            f.write_str("from ")?;
        }
        match &self.target {
            Target::Name(pattern) => write!(f, "{pattern}")?,
            Target::Network(network) => {
                let is_single = network.prefix_len() == network.max_prefix_len();
                let needs_brackets = matches!(network, IpNet::V6(_)) && !self.ports.is_all();
                let (open, close) = if needs_brackets { ("[", "]") } else { ("", "") };
                if is_single {
                    write!(f, "{open}{}{close}", network.addr())?;
                } else {
                    write!(f, "{open}{network}{close}")?;
                }
            }
        }
        write!(f, "{}", self.ports)?;
        if self.transport != self.action.default_transport() {
            write!(f, "/{}", self.transport)?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}
