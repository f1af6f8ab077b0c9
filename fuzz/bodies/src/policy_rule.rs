//! Rules of policies, a line each.
//!
//! What is read is written so that it is read as the same rule, in text and in JSON; and a policy
//! decides as its written form does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smolvm_network::{Decider, Destination, Mode, Name, NetworkPolicy, Protocol, Rule};

/// Reads every line as a rule, and decides by those that are.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let rules: Vec<Rule> = text.split('\n').filter_map(read).collect();
    let written = rules.iter().map(|rule| {
        let text = rule.to_string();
        text.parse()
            .unwrap_or_else(|error| panic!("{rule:?} is written as {text:?}: {error}"))
    });
    let written: Vec<Rule> = written.collect();
    assert_eq!(rules, written);
    decide(rules);
}

fn read(line: &str) -> Option<Rule> {
    let error = match line.parse::<Rule>() {
        Ok(rule) => return Some(rule),
        Err(error) => error,
    };
    let last_column = line.chars().count() + 1;
    assert!((1..=last_column).contains(&error.column), "{error}");
    None
}

fn decide(rules: Vec<Rule>) {
    let Ok(policy) = NetworkPolicy::new(Mode::Restricted, rules) else {
        return;
    };
    let json = serde_json::to_string(&policy).expect("plain values");
    let again: NetworkPolicy = serde_json::from_str(&json).expect("what was written");
    assert_eq!(policy, again);
    let names = [Name::from_ascii("a.example.com").expect("a name")];
    let deciders = [Decider::new(&policy), Decider::new(&again)];
    let [first, second] = &deciders;
    assert_eq!(first.query(&names[0]), second.query(&names[0]));
    for address in [
        IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)),
        Ipv4Addr::new(192, 0, 2, 1).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    ] {
        let to = Destination {
            protocol: Protocol::Tcp,
            address: SocketAddr::new(address, 443),
            names: &names,
        };
        assert_eq!(first.connection(&to, &[]), second.connection(&to, &[]));
        assert_eq!(first.answer(address, &[]), second.answer(address, &[]));
    }
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "allow example.com\ndeny 203.0.113.0/24",
        "allow *.example.com:443\nallow 10.0.0.0/8:5432,6000-6100/tcp",
        "allow host.smolvm.internal:8080\nallow [2001:db8::/32]:443/udp",
        "allow */icmp\ndeny *\ndeny *.com\nallow ::ffff:10.0.0.0/104",
        "  ALLOW   B\u{fc}cher.Example.:443/TCP ",
        "allow *.co.uk\nallow [::1\nallow 10.0.0.1/8\nallow a:0\nallow a/x y",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
