//! A policy compiled for many decisions. What wins over what is said in [`super`].

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::Judged;
use super::name::{GATEWAY_NAME, HOST_NAME, Name, NamePattern};
use super::protection::{Protection, protections};
use super::{Action, Direction, Mode, NetworkPolicy, Rule, Target};
use crate::{Protocol, Verdict};

mod peers;
#[cfg(test)]
mod tests;

/// Where a guest wants to go.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// By which protocol.
    pub protocol: Protocol,
    /// To which address and port; the port of ICMP echo is 0.
    pub address: SocketAddr,
    /// The names that the sandbox resolved to the address, and that are still valid.
    /// [`HOST_NAME`] is among them exactly when the address is the one that stands for the host.
    pub names: &'a [Name],
}

/// The decision about a connection, or about the first datagram of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, whatever name the protocol shows.
    Allowed(Verdict),
    /// Allowed as far as its names are known: where the protocol shows a name, or should, the
    /// connection goes on only if [`Decider::shown`] allows that one too.
    AllowedByName(Verdict),
    /// Denied.
    Denied(Verdict),
}

impl Decision {
    /// Returns the verdict.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        match self {
            Self::Allowed(verdict) | Self::AllowedByName(verdict) | Self::Denied(verdict) => {
                verdict
            }
        }
    }
}

/// A compiled policy.
#[derive(Debug)]
pub struct Decider {
    mode: Mode,
    allow: RuleTable,
    deny: RuleTable,
    /// What is denied to peers that connect to the guest.
    deny_from: RuleTable,
}

impl Decider {
    /// Compiles a policy.
    #[must_use]
    pub fn new(policy: &NetworkPolicy) -> Self {
        let rules_that = |action: Action, direction: Direction| {
            let is_one = |rule: &&Rule| rule.action() == action && rule.direction() == direction;
            RuleTable::new(policy.rules().iter().filter(is_one))
        };
        Self {
            mode: policy.mode(),
            allow: rules_that(Action::Allow, Direction::To),
            deny: rules_that(Action::Deny, Direction::To),
            deny_from: rules_that(Action::Deny, Direction::From),
        }
    }

    /// Decides whether the guest may ask for a name: whatever a connection to it could be allowed
    /// for.
    #[must_use]
    pub fn query(&self, name: &Name) -> Verdict {
        if self.mode == Mode::Off {
            return Verdict::denied(Mode::Off.rule());
        }
        if let Some(rule) = self.deny.about_name(name, Rule::covers_all) {
            return Verdict::denied(rule);
        }
        if name.as_str() == GATEWAY_NAME {
            return Verdict::allowed("built-in: name of the gateway");
        }
        let allowed = if name.as_str() == HOST_NAME {
            self.allow.about_exactly(name, |_| true)
        } else {
            self.allow.about_name(name, |_| true)
        };
        match (allowed, self.mode) {
            (Some(rule), _) => Verdict::allowed(rule),
            (None, Mode::Open) => Verdict::allowed(Mode::Open.rule()),
            (None, _) => Verdict::denied(self.mode.rule()),
        }
    }

    /// Decides whether a DNS answer may tell the guest this address, by the built-in protections
    /// alone: a public name that resolves to a private address is an attack more often than not
    /// (DNS rebinding).
    #[must_use]
    pub fn answer(&self, address: IpAddr, own: &[IpAddr]) -> Verdict {
        match self.protection(Judged::new(address), own, |_| true) {
            Some(protection) => Verdict::denied(protection.rule()),
            None => Verdict::allowed(self.mode.rule()),
        }
    }

    /// Tells whether names that a protocol shows are judged, so that nothing should help the guest
    /// to hide them.
    #[must_use]
    pub fn judges_shown_names(&self) -> bool {
        self.mode == Mode::Restricted || self.deny.has_names
    }

    /// Decides whether the guest may go there. `own` are the addresses of the host's interfaces.
    #[must_use]
    pub fn connection(&self, to: &Destination<'_>, own: &[IpAddr]) -> Decision {
        if self.mode == Mode::Off {
            return Decision::Denied(Verdict::denied(Mode::Off.rule()));
        }
        let covers = |rule: &Rule| rule.covers(to.protocol, to.address.port());
        let judged = Judged::new(to.address.ip());
        let denied = self
            .deny
            .about_address(judged, covers)
            .or_else(|| self.deny.about_names(to.names, covers));
        if let Some(rule) = denied {
            return Decision::Denied(Verdict::denied(rule));
        }
        if let Some(host) = to.names.iter().find(|name| name.as_str() == HOST_NAME) {
            // Only ports of the host's loopback are there, whatever name is shown to them.
            return match self.allow.about_exactly(host, covers) {
                Some(rule) => Decision::Allowed(Verdict::allowed(rule)),
                None => Decision::Denied(Verdict::denied(Protection::Loopback.rule())),
            };
        }
        if let Some(protection) = self.protection(judged, own, covers) {
            return Decision::Denied(Verdict::denied(protection.rule()));
        }
        if let Some(verdict) = self.address_verdict(to) {
            return if self.deny.has_names {
                Decision::AllowedByName(verdict)
            } else {
                Decision::Allowed(verdict)
            };
        }
        match self.allow.about_names(to.names, covers) {
            Some(rule) => Decision::AllowedByName(Verdict::allowed(rule)),
            None => Decision::Denied(Verdict::denied(self.mode.rule())),
        }
    }

    /// Decides whether a connection may go on that [`Self::connection`] allowed by name, once the
    /// protocol has shown a name, or not shown the one that it should have (`None`: there is none,
    /// it is encrypted, or it is an address).
    #[must_use]
    pub fn shown(&self, to: &Destination<'_>, shown: Option<&Name>) -> Verdict {
        if self.mode == Mode::Off {
            return Verdict::denied(Mode::Off.rule());
        }
        let covers = |rule: &Rule| rule.covers(to.protocol, to.address.port());
        if let Some(rule) = shown.and_then(|name| self.deny.about_name(name, covers)) {
            return Verdict::denied(rule);
        }
        if let Some(verdict) = self.address_verdict(to) {
            return verdict;
        }
        let Some(name) = shown else {
            return Verdict::denied("built-in: no name shown");
        };
        match self.allow.about_name(name, covers) {
            Some(rule) if to.names.contains(name) => Verdict::allowed(rule),
            Some(_) => Verdict::denied("built-in: name shown was not resolved to this address"),
            None => Verdict::denied(self.mode.rule()),
        }
    }

    /// Returns why the destination is allowed whatever its name is, if it is.
    fn address_verdict(&self, to: &Destination<'_>) -> Option<Verdict> {
        let covers = |rule: &Rule| rule.covers(to.protocol, to.address.port());
        let judged = Judged::new(to.address.ip());
        match self.allow.about_address(judged, covers) {
            Some(rule) => Some(Verdict::allowed(rule)),
            None => (self.mode == Mode::Open).then(|| Verdict::allowed(Mode::Open.rule())),
        }
    }

    /// Returns the first protection of an address that no allow rule lifts.
    fn protection(
        &self,
        judged: Judged,
        own: &[IpAddr],
        accepts: impl Fn(&Rule) -> bool + Copy,
    ) -> Option<Protection> {
        protections(judged, own)
            .find(|protected| {
                !self
                    .allow
                    .networks_with(protected.address, accepts)
                    .any(|network| protected.is_lifted_by(&network))
            })
            .map(|protected| protected.protection)
    }
}

/// The rules of one action, found by what they are about. A look-up costs a hash for each label of
/// a name, or for each length of network that occurs in the rules, however many rules there are.
#[derive(Debug, Default)]
struct RuleTable {
    rules: Vec<(Rule, Arc<str>)>,
    any_name: Vec<usize>,
    exact_names: HashMap<Name, Vec<usize>>,
    below_names: HashMap<Name, Vec<usize>>,
    networks: HashMap<IpNet, Vec<usize>>,
    network_lengths: BTreeSet<u8>,
    has_names: bool,
}

impl RuleTable {
    fn new<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut table = Self::default();
        for (index, rule) in rules.enumerate() {
            let indices = match rule.target() {
                Target::Name(NamePattern::Any) => &mut table.any_name,
                Target::Name(NamePattern::Exact(name)) => {
                    table.exact_names.entry(name.clone()).or_default()
                }
                Target::Name(NamePattern::Below(name)) => {
                    table.below_names.entry(name.clone()).or_default()
                }
                Target::Network(network) => {
                    table.network_lengths.insert(network.prefix_len());
                    table.networks.entry(*network).or_default()
                }
            };
            indices.push(index);
            table.has_names |= matches!(rule.target(), Target::Name(_));
            table.rules.push((rule.clone(), rule.shared_text()));
        }
        table
    }

    /// Returns the first rule about one of the names that is accepted.
    fn about_names(&self, names: &[Name], accepts: impl Fn(&Rule) -> bool) -> Option<Arc<str>> {
        let indices = names.iter().flat_map(|name| {
            let exact = self.exact_names.get(name);
            let below = name
                .parents()
                .filter_map(|parent| self.below_names.get(parent));
            exact.into_iter().chain(below).flatten()
        });
        let any = names.first().map(|_| &self.any_name).into_iter().flatten();
        self.first(indices.chain(any).copied(), accepts)
    }

    /// Returns the first rule about a name that is accepted.
    fn about_name(&self, name: &Name, accepts: impl Fn(&Rule) -> bool) -> Option<Arc<str>> {
        self.about_names(std::slice::from_ref(name), accepts)
    }

    /// Returns the first rule that has the name itself, not a wildcard, and that is accepted.
    fn about_exactly(&self, name: &Name, accepts: impl Fn(&Rule) -> bool) -> Option<Arc<str>> {
        let indices = self.exact_names.get(name).into_iter().flatten();
        self.first(indices.copied(), accepts)
    }

    /// Returns the first rule about the narrowest network with the address that is accepted.
    fn about_address(
        &self,
        judged: Judged,
        accepts: impl Fn(&Rule) -> bool + Copy,
    ) -> Option<Arc<str>> {
        judged
            .addresses()
            .flat_map(|address| self.networks_of(address))
            .find_map(|(_, indices)| self.first(indices.iter().copied(), accepts))
    }

    /// Returns the networks with the address of which a rule is accepted.
    fn networks_with(
        &self,
        address: IpAddr,
        accepts: impl Fn(&Rule) -> bool,
    ) -> impl Iterator<Item = IpNet> {
        self.networks_of(address)
            .filter(move |(_, indices)| self.first(indices.iter().copied(), &accepts).is_some())
            .map(|(network, _)| network)
    }

    /// Returns the networks of rules that have the address, narrowest first.
    fn networks_of(&self, address: IpAddr) -> impl Iterator<Item = (IpNet, &Vec<usize>)> {
        self.network_lengths
            .iter()
            .rev()
            .filter_map(move |&length| {
                let network = IpNet::new(address, length).ok()?.trunc();
                Some((network, self.networks.get(&network)?))
            })
    }

    /// Returns the text of the rule with the lowest index that is accepted.
    fn first(
        &self,
        indices: impl Iterator<Item = usize>,
        accepts: impl Fn(&Rule) -> bool,
    ) -> Option<Arc<str>> {
        indices
            .filter_map(|index| Some((index, self.rules.get(index)?)))
            .filter(|(_, (rule, _))| accepts(rule))
            .min_by_key(|&(index, _)| index)
            .map(|(_, (_, text))| Arc::clone(text))
    }
}
