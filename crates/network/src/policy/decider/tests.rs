//! Each protection and conflict by itself, and all of them against a slow evaluation.

use proptest::prelude::*;

use super::*;

fn policy(mode: Mode, rules: &[&str]) -> NetworkPolicy {
    let rules = rules
        .iter()
        .map(|rule| rule.parse().expect("a rule"))
        .collect();
    NetworkPolicy::new(mode, rules).expect("few rules")
}

fn decider(mode: Mode, rules: &[&str]) -> Decider {
    Decider::new(&policy(mode, rules))
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| name(text)).collect()
}

fn tcp<'a>(address: &str, names: &'a [Name]) -> Destination<'a> {
    Destination {
        protocol: Protocol::Tcp,
        address: address.parse().expect("an address and a port"),
        names,
    }
}

fn udp<'a>(address: &str, names: &'a [Name]) -> Destination<'a> {
    Destination {
        protocol: Protocol::Udp,
        ..tcp(address, names)
    }
}

fn allowed(rule: &str) -> Decision {
    Decision::Allowed(Verdict::allowed(rule))
}

fn by_name(rule: &str) -> Decision {
    Decision::AllowedByName(Verdict::allowed(rule))
}

fn denied(rule: &str) -> Decision {
    Decision::Denied(Verdict::denied(rule))
}

const PUBLIC: &str = "203.0.113.1:443";

mod modes {
    use super::*;

    #[test]
    fn off_denies_whatever_rules_allow() {
        let off = decider(Mode::Off, &["allow example.com", "allow 203.0.113.1"]);
        let resolved = names(&["example.com"]);
        assert_eq!(
            off.connection(&tcp(PUBLIC, &resolved), &[]),
            denied("mode: off")
        );
        assert_eq!(
            off.query(&name("example.com")),
            Verdict::denied("mode: off")
        );
        assert_eq!(
            off.shown(&tcp(PUBLIC, &resolved), Some(&name("example.com"))),
            Verdict::denied("mode: off")
        );
    }

    #[test]
    fn open_allows_public_addresses_without_names() {
        let open = decider(Mode::Open, &[]);
        assert_eq!(
            open.connection(&tcp(PUBLIC, &[]), &[]),
            allowed("mode: open")
        );
        assert_eq!(
            open.connection(&udp("[2001:db8::1]:443", &[]), &[]),
            allowed("mode: open")
        );
        assert_eq!(
            open.query(&name("example.com")),
            Verdict::allowed("mode: open")
        );
    }

    #[test]
    fn restricted_denies_what_no_rule_allows() {
        let restricted = decider(Mode::Restricted, &["allow example.com:443"]);
        assert_eq!(
            restricted.connection(&tcp(PUBLIC, &[]), &[]),
            denied("mode: restricted")
        );
        let resolved = names(&["example.com"]);
        assert_eq!(
            restricted.connection(&tcp("203.0.113.1:80", &resolved), &[]),
            denied("mode: restricted")
        );
        assert_eq!(
            restricted.query(&name("example.org")),
            Verdict::denied("mode: restricted")
        );
    }
}

mod protection {
    use super::*;

    #[test]
    fn protected_address_is_denied_in_open_mode() {
        let open = decider(Mode::Open, &["allow *", "allow */any"]);
        for (address, rule) in [
            ("127.0.0.1:80", "built-in: loopback of the host"),
            ("10.0.0.1:80", "built-in: private address"),
            ("169.254.169.254:80", "built-in: cloud metadata"),
            ("224.0.0.251:5353", "built-in: multicast"),
            ("[::ffff:127.0.0.1]:80", "built-in: loopback of the host"),
            ("[64:ff9b::a9fe:a9fe]:80", "built-in: cloud metadata"),
        ] {
            let resolved = names(&["rebinding.example"]);
            assert_eq!(
                open.connection(&tcp(address, &resolved), &[]),
                denied(rule),
                "{address}"
            );
        }
    }

    #[test]
    fn own_address_is_denied_though_public() {
        let open = decider(Mode::Open, &["allow 203.0.113.0/24"]);
        let own = ["203.0.113.1".parse().expect("an address")];
        assert_eq!(
            open.connection(&tcp(PUBLIC, &[]), &own),
            denied("built-in: address of the host")
        );
    }

    #[test]
    fn rule_about_the_protected_range_lifts_it_for_its_ports() {
        let open = decider(Mode::Open, &["allow 10.0.0.0/8:5432"]);
        assert_eq!(
            open.connection(&tcp("10.1.2.3:5432", &[]), &[]),
            allowed("allow 10.0.0.0/8:5432")
        );
        assert_eq!(
            open.connection(&tcp("10.1.2.3:22", &[]), &[]),
            denied("built-in: private address")
        );
        assert_eq!(
            open.connection(&udp("10.1.2.3:5432", &[]), &[]),
            denied("built-in: private address")
        );
        let mapped = tcp("[::ffff:10.1.2.3]:5432", &[]);
        assert_eq!(
            open.connection(&mapped, &[]),
            allowed("allow 10.0.0.0/8:5432")
        );
    }

    #[test]
    fn wider_rule_lifts_no_protection() {
        let open = decider(
            Mode::Open,
            &["allow 0.0.0.0/0", "allow ::/0", "allow 169.254.0.0/16"],
        );
        assert_eq!(
            open.connection(&tcp("10.0.0.1:80", &[]), &[]),
            denied("built-in: private address")
        );
        assert_eq!(
            open.connection(&tcp("[::1]:80", &[]), &[]),
            denied("built-in: loopback of the host")
        );
        assert_eq!(
            open.connection(&tcp("169.254.1.1:80", &[]), &[]),
            allowed("allow 169.254.0.0/16")
        );
        assert_eq!(
            open.connection(&tcp("169.254.169.254:80", &[]), &[]),
            denied("built-in: cloud metadata")
        );
    }

    #[test]
    fn single_address_lifts_every_protection_of_it() {
        let rules = ["allow 192.168.1.5:80", "allow 169.254.169.254"];
        let restricted = decider(Mode::Restricted, &rules);
        let own = ["192.168.1.5".parse().expect("an address")];
        assert_eq!(
            restricted.connection(&tcp("192.168.1.5:80", &[]), &own),
            allowed("allow 192.168.1.5:80")
        );
        assert_eq!(
            restricted.connection(&tcp("169.254.169.254:80", &[]), &own),
            allowed("allow 169.254.169.254")
        );
    }

    #[test]
    fn dns_answer_may_tell_an_address_that_some_port_is_allowed_of() {
        let open = decider(Mode::Open, &["allow 10.0.0.0/8:5432"]);
        let answer = |address: &str| open.answer(address.parse().expect("an address"), &[]);
        assert!(answer("10.0.0.1").is_allowed);
        assert!(answer("203.0.113.1").is_allowed);
        assert_eq!(
            answer("192.168.0.1"),
            Verdict::denied("built-in: private address")
        );
    }
}

mod host {
    use super::*;

    #[test]
    fn host_is_reached_at_allowed_ports_only() {
        let open = decider(Mode::Open, &["allow host.smolvm.internal:8080"]);
        let host = names(&[HOST_NAME]);
        assert_eq!(
            open.connection(&tcp("127.0.0.1:8080", &host), &[]),
            allowed("allow host.smolvm.internal:8080")
        );
        assert_eq!(
            open.connection(&tcp("127.0.0.1:22", &host), &[]),
            denied("built-in: loopback of the host")
        );
    }

    #[test]
    fn wildcards_do_not_open_the_host() {
        let rules = ["allow *", "allow *.smolvm.internal", "allow 0.0.0.0/0"];
        let restricted = decider(Mode::Restricted, &rules);
        let host = names(&[HOST_NAME]);
        assert_eq!(
            restricted.connection(&tcp("10.0.2.2:8080", &host), &[]),
            denied("built-in: loopback of the host")
        );
        assert_eq!(
            restricted.query(&name(HOST_NAME)),
            Verdict::denied("mode: restricted")
        );
    }

    #[test]
    fn deny_wins_for_the_host() {
        let rules = ["allow host.smolvm.internal:8080", "deny *.smolvm.internal"];
        let host = names(&[HOST_NAME]);
        assert_eq!(
            decider(Mode::Open, &rules).connection(&tcp("10.0.2.2:8080", &host), &[]),
            denied("deny *.smolvm.internal")
        );
    }
}

mod conflict {
    use super::*;

    #[test]
    fn deny_wins_wherever_it_stands() {
        for rules in [
            ["allow 203.0.113.1", "deny 203.0.113.0/24"],
            ["deny 203.0.113.0/24", "allow 203.0.113.1"],
        ] {
            assert_eq!(
                decider(Mode::Restricted, &rules).connection(&tcp(PUBLIC, &[]), &[]),
                denied("deny 203.0.113.0/24")
            );
        }
    }

    #[test]
    fn denied_name_beats_allowed_address() {
        let rules = ["allow 203.0.113.0/24", "deny bad.example"];
        let restricted = decider(Mode::Restricted, &rules);
        let resolved = names(&["bad.example"]);
        assert_eq!(
            restricted.connection(&tcp(PUBLIC, &resolved), &[]),
            denied("deny bad.example")
        );
        // Reached by its address, it is found out when it shows its name.
        let unresolved = tcp(PUBLIC, &[]);
        assert_eq!(
            restricted.connection(&unresolved, &[]),
            by_name("allow 203.0.113.0/24")
        );
        assert_eq!(
            restricted.shown(&unresolved, Some(&name("bad.example"))),
            Verdict::denied("deny bad.example")
        );
    }

    #[test]
    fn denied_embedded_address_is_denied_in_its_tunnel() {
        let open = decider(Mode::Open, &["deny 203.0.113.0/24"]);
        assert_eq!(
            open.connection(&tcp("[64:ff9b::203.0.113.1]:443", &[]), &[]),
            denied("deny 203.0.113.0/24")
        );
    }

    #[test]
    fn first_of_the_rules_that_agree_is_named() {
        let rules = ["allow *.example.com", "allow a.example.com", "allow *"];
        let resolved = names(&["b.example.org", "a.example.com"]);
        assert_eq!(
            decider(Mode::Restricted, &rules).connection(&tcp(PUBLIC, &resolved), &[]),
            by_name("allow *.example.com")
        );
    }
}

mod shown_name {
    use super::*;

    #[test]
    fn allowed_name_resolved_to_the_address_goes_on() {
        let restricted = decider(Mode::Restricted, &["allow *.example.com"]);
        let resolved = names(&["a.example.com"]);
        let to = tcp(PUBLIC, &resolved);
        assert_eq!(
            restricted.connection(&to, &[]),
            by_name("allow *.example.com")
        );
        assert_eq!(
            restricted.shown(&to, Some(&name("a.example.com"))),
            Verdict::allowed("allow *.example.com")
        );
    }

    #[test]
    fn allowed_name_of_another_address_is_a_disagreement() {
        let restricted = decider(Mode::Restricted, &["allow *.example.com"]);
        let resolved = names(&["a.example.com"]);
        assert_eq!(
            restricted.shown(&tcp(PUBLIC, &resolved), Some(&name("b.example.com"))),
            Verdict::denied("built-in: name shown was not resolved to this address")
        );
    }

    #[test]
    fn name_that_no_rule_allows_is_denied_though_resolved() {
        let restricted = decider(Mode::Restricted, &["allow a.example.com"]);
        let resolved = names(&["a.example.com", "b.example.com"]);
        assert_eq!(
            restricted.shown(&tcp(PUBLIC, &resolved), Some(&name("b.example.com"))),
            Verdict::denied("mode: restricted")
        );
    }

    #[test]
    fn missing_name_is_denied_unless_the_address_is_allowed() {
        let resolved = names(&["a.example.com"]);
        let to = tcp(PUBLIC, &resolved);
        assert_eq!(
            decider(Mode::Restricted, &["allow a.example.com"]).shown(&to, None),
            Verdict::denied("built-in: no name shown")
        );
        assert_eq!(
            decider(
                Mode::Restricted,
                &["allow a.example.com", "allow 203.0.113.1"]
            )
            .shown(&to, None),
            Verdict::allowed("allow 203.0.113.1")
        );
    }

    #[test]
    fn open_mode_denies_denied_names_and_no_others() {
        let open = decider(Mode::Open, &["deny *.bad.example:443"]);
        let to = tcp(PUBLIC, &[]);
        assert_eq!(open.connection(&to, &[]), by_name("mode: open"));
        assert_eq!(
            open.shown(&to, Some(&name("a.bad.example"))),
            Verdict::denied("deny *.bad.example:443")
        );
        assert_eq!(
            open.shown(&to, Some(&name("good.example"))),
            Verdict::allowed("mode: open")
        );
        assert_eq!(open.shown(&to, None), Verdict::allowed("mode: open"));
        // Its name may be asked for, as it can be reached at other ports.
        assert!(open.query(&name("a.bad.example")).is_allowed);
    }

    #[test]
    fn udp_needs_a_rule_that_says_so() {
        let resolved = names(&["a.example.com"]);
        let quic = udp(PUBLIC, &resolved);
        assert_eq!(
            decider(Mode::Restricted, &["allow a.example.com"]).connection(&quic, &[]),
            denied("mode: restricted")
        );
        assert_eq!(
            decider(Mode::Restricted, &["allow a.example.com/udp"]).connection(&quic, &[]),
            by_name("allow a.example.com/udp")
        );
    }
}

/// What a policy decides, in the words of its documentation and without any index.
mod reference {
    use super::*;

    fn is_about(rule: &Rule, to: &Destination<'_>, names: &[Name]) -> bool {
        let is_target = match rule.target() {
            Target::Name(pattern) => names.iter().any(|name| pattern.matches(name)),
            Target::Network(network) => Judged::new(to.address.ip())
                .addresses()
                .any(|address| network.contains(&address)),
        };
        is_target && rule.covers(to.protocol, to.address.port())
    }

    fn is_address_rule(rule: &Rule) -> bool {
        matches!(rule.target(), Target::Network(_))
    }

    fn first(
        policy: &NetworkPolicy,
        action: Action,
        accepts: impl Fn(&Rule) -> bool,
    ) -> Option<&Rule> {
        policy
            .rules()
            .iter()
            .find(|rule| rule.action() == action && accepts(rule))
    }

    /// Returns whether it is allowed, and whether by name.
    pub(super) fn connection(
        policy: &NetworkPolicy,
        to: &Destination<'_>,
        own: &[IpAddr],
    ) -> (bool, bool) {
        if policy.mode() == Mode::Off {
            return (false, false);
        }
        if first(policy, Action::Deny, |rule| is_about(rule, to, to.names)).is_some() {
            return (false, false);
        }
        let judged = Judged::new(to.address.ip());
        let is_protected = protections(judged, own).any(|protected| {
            first(policy, Action::Allow, |rule| match rule.target() {
                Target::Network(network) => {
                    protected.range.contains(network)
                        && network.contains(&protected.address)
                        && rule.covers(to.protocol, to.address.port())
                }
                Target::Name(_) => false,
            })
            .is_none()
        });
        if is_protected {
            return (false, false);
        }
        let has_address_rule = first(policy, Action::Allow, |rule| {
            is_address_rule(rule) && is_about(rule, to, &[])
        })
        .is_some();
        let denies_names = first(policy, Action::Deny, |rule| !is_address_rule(rule)).is_some();
        if has_address_rule || policy.mode() == Mode::Open {
            return (true, denies_names);
        }
        let has_name_rule =
            first(policy, Action::Allow, |rule| is_about(rule, to, to.names)).is_some();
        (has_name_rule, has_name_rule)
    }

    pub(super) fn query(policy: &NetworkPolicy, name: &Name) -> bool {
        let is_about = |rule: &Rule| match rule.target() {
            Target::Name(pattern) => pattern.matches(name),
            Target::Network(_) => false,
        };
        let is_denied = first(policy, Action::Deny, |rule| {
            is_about(rule) && rule.covers_all()
        })
        .is_some();
        match policy.mode() {
            Mode::Off => false,
            Mode::Open => !is_denied,
            Mode::Restricted => !is_denied && first(policy, Action::Allow, is_about).is_some(),
        }
    }

    pub(super) fn shown(
        policy: &NetworkPolicy,
        to: &Destination<'_>,
        shown: Option<&Name>,
    ) -> bool {
        let shown: Vec<Name> = shown.into_iter().cloned().collect();
        let is_denied = first(policy, Action::Deny, |rule| {
            !is_address_rule(rule) && is_about(rule, to, &shown)
        })
        .is_some();
        if policy.mode() == Mode::Off || is_denied {
            return false;
        }
        let has_address_rule = first(policy, Action::Allow, |rule| {
            is_address_rule(rule) && is_about(rule, to, &[])
        })
        .is_some();
        let is_resolved = shown.iter().all(|name| to.names.contains(name));
        let has_name_rule =
            first(policy, Action::Allow, |rule| is_about(rule, to, &shown)).is_some();
        has_address_rule || policy.mode() == Mode::Open || (has_name_rule && is_resolved)
    }
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![
        "203.0.113.1",
        "203.0.113.200",
        "10.0.0.1",
        "10.200.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:cb00:7101::1",
        "2001:db8::1",
        "fd00::1",
    ])
    .prop_map(|text| text.parse().expect("an address"))
}

fn any_name() -> impl Strategy<Value = Name> {
    prop::sample::select(vec![
        "example.com",
        "a.example.com",
        "b.a.example.com",
        "example.org",
        "aexample.com",
    ])
    .prop_map(name)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let target = prop::sample::select(vec![
        "*",
        "example.com",
        "*.example.com",
        "*.a.example.com",
        "example.org",
        "203.0.113.1",
        "203.0.113.0/24",
        "203.0.113.128/25",
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/7",
        "10.200.0.0/16",
        "127.0.0.1",
        "169.254.0.0/16",
        "169.254.169.254",
        "[2001:db8::/32]",
        "[64:ff9b::/96]",
        "[::/0]",
        "[fd00::/8]",
    ]);
    let ports = prop::sample::select(vec!["", ":443", ":80,400-500"]);
    let transport = prop::sample::select(vec!["", "/tcp", "/udp", "/any"]);
    let action = prop::sample::select(vec!["allow", "allow", "allow", "deny"]);
    (action, target, ports, transport).prop_map(|(action, target, ports, transport)| {
        format!("{action} {target}{ports}{transport}")
            .parse()
            .expect("a rule")
    })
}

fn any_policy() -> impl Strategy<Value = NetworkPolicy> {
    let mode = prop::sample::select(vec![
        Mode::Restricted,
        Mode::Restricted,
        Mode::Open,
        Mode::Off,
    ]);
    let rules = prop::collection::vec(any_rule(), 0..6);
    (mode, rules).prop_map(|(mode, rules)| NetworkPolicy::new(mode, rules).expect("few rules"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn decisions_are_those_of_the_reference(
        policy in any_policy(),
        address in any_address(),
        port in prop::sample::select(vec![80, 443, 22]),
        protocol in prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]),
        names in prop::collection::vec(any_name(), 0..3),
        shown in prop::option::of(any_name()),
        is_own in any::<bool>(),
    ) {
        let decider = Decider::new(&policy);
        let to = Destination { protocol, address: SocketAddr::new(address, port), names: &names };
        let own = if is_own { vec![address.to_canonical()] } else { Vec::new() };
        let found = match decider.connection(&to, &own) {
            Decision::Allowed(_) => (true, false),
            Decision::AllowedByName(_) => (true, true),
            Decision::Denied(_) => (false, false),
        };
        prop_assert_eq!(found, reference::connection(&policy, &to, &own));
        if found == (true, true) {
            let found = decider.shown(&to, shown.as_ref()).is_allowed;
            prop_assert_eq!(found, reference::shown(&policy, &to, shown.as_ref()));
        }
    }

    #[test]
    fn names_that_may_be_asked_for_are_those_of_the_reference(
        policy in any_policy(),
        name in any_name(),
    ) {
        let found = Decider::new(&policy).query(&name).is_allowed;
        prop_assert_eq!(found, reference::query(&policy, &name));
    }

    #[test]
    fn name_that_a_connection_is_allowed_for_can_be_asked_for(
        policy in any_policy(),
        name in any_name(),
        port in prop::sample::select(vec![80, 443, 22]),
    ) {
        let decider = Decider::new(&policy);
        let names = [name];
        let to = Destination {
            protocol: Protocol::Tcp,
            address: SocketAddr::new("203.0.113.1".parse().expect("an address"), port),
            names: &names,
        };
        let unnamed = Destination { names: &[], ..to };
        let is_allowed = |to| decider.connection(to, &[]).verdict().is_allowed;
        if is_allowed(&to) && !is_allowed(&unnamed) {
            prop_assert!(decider.query(&names[0]).is_allowed);
        }
    }
}

#[test]
fn thousand_rules_cost_little_more_than_none() {
    let rules: Vec<Rule> = (0..500)
        .flat_map(|number| {
            [
                format!("allow host-{number}.example.com:443"),
                format!("allow 203.0.{}.{}", number / 256, number % 256),
            ]
        })
        .map(|text| text.parse().expect("a rule"))
        .collect();
    let decider = Decider::new(&NetworkPolicy::new(Mode::Restricted, rules).expect("legal"));
    let resolved = names(&["host-499.example.com"]);
    let to = tcp("198.51.100.1:443", &resolved);
    assert_eq!(
        decider.connection(&to, &[]),
        by_name("allow host-499.example.com:443")
    );
    // What a look-up costs is what it looks at: one network of each length, one name of each label.
    assert_eq!(decider.allow.network_lengths.len(), 1);
    assert!(
        decider
            .allow
            .exact_names
            .values()
            .all(|rules| rules.len() == 1)
    );
}
