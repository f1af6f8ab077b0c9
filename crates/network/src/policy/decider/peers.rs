//! Decisions about peers: allowed by the network that both are in, unless a rule denies it.

use crate::{Decider, Destination, Mode, Name, Protocol, Rule, Verdict};

impl Decider {
    /// Decides whether the guest may ask for a peer that has these names; `network` is where it is
    /// one, if it is.
    #[must_use]
    pub fn peer_query(&self, names: &[Name], network: Option<&str>) -> Verdict {
        if self.mode == Mode::Off {
            return Verdict::denied(Mode::Off.rule());
        }
        match (self.deny.about_names(names, Rule::covers_all), network) {
            (Some(rule), _) => Verdict::denied(rule),
            (None, Some(network)) => Verdict::allowed(rule_of(network)),
            (None, None) => Verdict::allowed("built-in: names of peers"),
        }
    }

    /// Decides whether the guest may connect to a peer in `network`.
    #[must_use]
    pub fn to_peer(&self, to: &Destination<'_>, network: &str) -> Verdict {
        if self.mode == Mode::Off {
            return Verdict::denied(Mode::Off.rule());
        }
        if to.protocol == Protocol::Icmp {
            return Verdict::denied("built-in: pings do not reach peers");
        }
        let covers = |rule: &Rule| rule.covers(to.protocol, to.address.port());
        let address = super::Judged::new(to.address.ip());
        let denied = self
            .deny
            .about_names(to.names, covers)
            .or_else(|| self.deny.about_address(address, covers));
        match denied {
            Some(rule) => Verdict::denied(rule),
            None => Verdict::allowed(rule_of(network)),
        }
    }

    /// Decides whether a peer in `network`, which has these names, may connect to this port of the
    /// guest.
    #[must_use]
    pub fn from_peer(
        &self,
        names: &[Name],
        protocol: Protocol,
        port: u16,
        network: &str,
    ) -> Verdict {
        if self.mode == Mode::Off {
            return Verdict::denied(Mode::Off.rule());
        }
        let covers = |rule: &Rule| rule.covers(protocol, port);
        match self.deny_from.about_names(names, covers) {
            Some(rule) => Verdict::denied(rule),
            None => Verdict::allowed(rule_of(network)),
        }
    }
}

/// Returns what a verdict names as its rule when it is the network.
fn rule_of(network: &str) -> String {
    format!("network: {network}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkPolicy, PeerName};

    fn decider(mode: Mode, rules: &[&str]) -> Decider {
        let rules = rules.iter().map(|rule| rule.parse().expect("a rule"));
        Decider::new(&NetworkPolicy::new(mode, rules.collect()).expect("few rules"))
    }

    fn names(peer: &str) -> Vec<Name> {
        PeerName::new(peer).expect("a label").dns_names()
    }

    /// The rule by which `decider` decides about TCP to a port of `peer`.
    fn to(decider: &Decider, peer: &str, port: u16) -> (bool, String) {
        let to = Destination {
            protocol: Protocol::Tcp,
            address: ([172, 16, 64, 1], port).into(),
            names: &names(peer),
        };
        parts(decider.to_peer(&to, "team"))
    }

    fn from(decider: &Decider, peer: &str, port: u16) -> (bool, String) {
        parts(decider.from_peer(&names(peer), Protocol::Tcp, port, "team"))
    }

    fn parts(verdict: Verdict) -> (bool, String) {
        (verdict.is_allowed, verdict.rule.to_string())
    }

    fn allowed() -> (bool, String) {
        (true, "network: team".to_owned())
    }

    fn denied(rule: &str) -> (bool, String) {
        (false, rule.to_owned())
    }

    #[test]
    fn network_allows_both_ways_in_every_mode_but_off() {
        for mode in [Mode::Open, Mode::Restricted] {
            let decider = decider(mode, &[]);
            assert_eq!(to(&decider, "db", 5432), allowed());
            assert_eq!(from(&decider, "db", 5432), allowed());
        }
        let off = decider(Mode::Off, &[]);
        assert_eq!(to(&off, "db", 5432), denied("mode: off"));
        assert_eq!(from(&off, "db", 5432), denied("mode: off"));
        let asked = off.peer_query(&names("db"), Some("team"));
        assert_eq!(parts(asked), denied("mode: off"));
    }

    #[test]
    fn denied_peer_is_denied_by_any_of_its_names_on_the_ports_of_the_rule() {
        for rule in [
            "deny db.peer.smolvm.internal:5432",
            "deny db:5432",
            "deny *.peer.smolvm.internal:5432",
            "deny *:5432",
            "deny 172.16.64.1:5432",
            "deny 0.0.0.0/0:5432",
        ] {
            let decider = decider(Mode::Open, &[rule]);
            assert_eq!(to(&decider, "db", 5432), denied(rule));
            assert_eq!(to(&decider, "db", 80), allowed(), "{rule}");
            assert_eq!(from(&decider, "db", 5432), allowed(), "{rule}");
        }
    }

    #[test]
    fn rule_about_the_way_in_says_nothing_about_the_way_out() {
        for rule in [
            "deny from web:5432",
            "deny from web.peer.smolvm.internal:5432",
            "deny from *.peer.smolvm.internal:5432",
            "deny from *:5432",
        ] {
            let decider = decider(Mode::Open, &[rule]);
            assert_eq!(from(&decider, "web", 5432), denied(rule));
            assert_eq!(from(&decider, "web", 80), allowed(), "{rule}");
            assert_eq!(to(&decider, "web", 5432), allowed(), "{rule}");
        }
        let decider = decider(Mode::Open, &["deny from web"]);
        assert_eq!(from(&decider, "db", 80), allowed());
        assert!(!decider.judges_shown_names());
    }

    #[test]
    fn allow_rule_does_not_undo_a_denial() {
        let decider = decider(Mode::Restricted, &["allow 172.16.0.0/12/any", "deny db"]);
        assert_eq!(to(&decider, "db", 80), denied("deny db"));
    }

    #[test]
    fn peer_that_is_denied_altogether_is_not_told_of() {
        let names = names("db");
        let decider = decider(Mode::Open, &["deny db.peer.smolvm.internal"]);
        let asked = decider.peer_query(&names, Some("team"));
        assert_eq!(parts(asked), denied("deny db.peer.smolvm.internal"));
    }

    #[test]
    fn ping_does_not_reach_a_peer() {
        let to = Destination {
            protocol: Protocol::Icmp,
            address: ([172, 16, 64, 1], 0).into(),
            names: &names("db"),
        };
        let verdict = decider(Mode::Open, &[]).to_peer(&to, "team");
        assert_eq!(parts(verdict), denied("built-in: pings do not reach peers"));
    }
}
