//! A restricted network: what the rules name is reached, by any address that it has, and nothing
//! else, whatever a client claims.

use serde_json::{Value, json};
use smolvm_tests::lab::{ECHO, Guest, Lab, OTHER_RESOLVER, RESOLVER, WEB};

use super::guest::{REACH, TALK};

#[test]
fn only_what_rules_name_is_reached() {
    let lab = Lab::new();
    lab.name("ports.lab.test", &["203.0.113.40"]);
    let guest = lab.guest(
        "box",
        &[
            "--net=restricted",
            "--allow=web.lab.test",
            "--allow=*.deep.lab.test",
            "--allow=ports.lab.test:8080",
            "--allow=203.0.113.64/26:80",
            "--allow=203.0.113.20:7/udp",
        ],
    );
    let exit_code_of = |url: &str| guest.sh(&format!("curl -sS --cacert $CA {url}")).code;
    assert_eq!(exit_code_of("https://web.lab.test/"), 0);
    assert_eq!(exit_code_of("http://a.deep.lab.test/"), 0);
    assert_eq!(exit_code_of("http://a.b.deep.lab.test/"), 0);
    // The gateway refuses to resolve what no rule names: curl's code 6.
    assert_eq!(exit_code_of("https://other.lab.test/"), 6);
    assert_eq!(exit_code_of("http://deep.lab.test/"), 6);
    assert_eq!(exit_code_of("http://ports.lab.test:8080/"), 0);
    check(
        &guest,
        REACH,
        &[
            ("tcp ports.lab.test 80", json!("ECONNREFUSED")),
            ("tcp 203.0.113.70 80", json!("open")),
            ("tcp 203.0.113.70 8080", json!("ECONNREFUSED")),
            ("tcp 203.0.113.130 80", json!("ECONNREFUSED")),
            ("udp 203.0.113.20 7", json!("answered")),
            ("udp 203.0.113.20 443", json!("EHOSTUNREACH")),
            ("tcp 203.0.113.20 7", json!("ECONNREFUSED")),
        ],
    );
}

#[test]
fn name_that_is_shown_must_be_the_one_that_was_resolved() {
    let lab = Lab::new();
    lab.name("never.deep.lab.test", &["203.0.113.11"]);
    let guest = lab.guest("box", &["--allow=web.lab.test", "--allow=*.deep.lab.test"]);
    let _resolved = guest
        .sh("getent ahostsv4 web.lab.test; getent ahostsv4 a.deep.lab.test")
        .ok();
    let cases = [
        ("tls W web.lab.test", json!(["web.lab.test"])),
        ("tls W a.deep.lab.test", json!(["a.deep.lab.test"])),
        ("tls-bytes W web.lab.test", json!(["web.lab.test"])),
        ("tls-records W web.lab.test", json!(["web.lab.test"])),
        ("tls W other.lab.test", json!(["reset"])),
        ("tls-bytes W other.lab.test", json!(["reset"])),
        ("tls-records W other.lab.test", json!(["reset"])),
        ("tls W never.deep.lab.test", json!(["reset"])),
        ("tls W -", json!(["reset"])),
        ("tls-ech W web.lab.test", json!(["reset"])),
        ("http W web.lab.test", json!(["web.lab.test"])),
        ("http W other.lab.test", json!(["status 403"])),
        ("http W 203.0.113.10", json!(["status 403"])),
        (
            "http W web.lab.test other.lab.test",
            json!(["web.lab.test", "status 403"]),
        ),
        (
            "pipelined W web.lab.test other.lab.test",
            json!(["web.lab.test", "status 403"]),
        ),
    ];
    let words: Vec<(String, Value)> = cases
        .into_iter()
        .map(|(words, outcome)| (words.replace('W', WEB), outcome))
        .collect();
    let cases: Vec<(&str, Value)> = words
        .iter()
        .map(|(words, outcome)| (words.as_str(), outcome.clone()))
        .collect();
    check(&guest, TALK, &cases);
    let smuggled = format!("smuggled {WEB} web.lab.test other.lab.test");
    let _whatever = guest.python(TALK, &[&smuggled]);
    let was_served = |name: &str| lab.arrivals().iter().any(|arrival| arrival["host"] == name);
    assert!(was_served("web.lab.test"));
    assert!(!was_served("other.lab.test"), "{:?}", lab.arrivals());
}

#[test]
fn ways_around_the_resolver_lead_nowhere() {
    let lab = Lab::new();
    lab.name("*.tunnel.test", &["203.0.113.99"]);
    let guest = lab.guest("box", &["--allow=web.lab.test"]);
    let _resolved = guest.sh("getent ahostsv4 web.lab.test").ok();
    // What leaves in names, to whoever serves that zone.
    let tunnel = guest.sh("for part in $(seq 20); do getent hosts $part.6f7574.tunnel.test; done");
    assert_eq!(tunnel.text(), "");
    let prohibited = json!("EHOSTUNREACH");
    let refused = json!("ECONNREFUSED");
    check(
        &guest,
        REACH,
        &[
            // Another resolver, by datagram, stream and TLS; and QUIC, which hides its name.
            (&format!("dns {OTHER_RESOLVER} 53"), prohibited.clone()),
            (&format!("tcp {OTHER_RESOLVER} 53"), refused.clone()),
            (&format!("tcp {OTHER_RESOLVER} 853"), refused.clone()),
            (&format!("udp {WEB} 443"), prohibited.clone()),
            (&format!("udp {ECHO} 7"), prohibited.clone()),
            // An address that nobody asked for, and a tunnel in pings.
            ("tcp 203.0.113.77 80", refused),
            (&format!("ping {WEB} 0"), prohibited),
            // The gateway's own resolver.
            ("dns 172.16.0.1 53", json!("answered")),
            ("tcp 172.16.0.1 53", json!("open")),
            ("tcp 172.16.0.1 853", json!("ECONNREFUSED")),
        ],
    );
    let arrived = lab.arrivals();
    assert!(
        arrived
            .iter()
            .all(|arrival| arrival["address"] == RESOLVER && arrival["name"] == "web.lab.test"),
        "{arrived:?}"
    );
}

/// Runs a program with the first of each pair as its arguments, and expects the second.
fn check(guest: &Guest<'_>, program: &str, cases: &[(&str, Value)]) {
    let arguments: Vec<&str> = cases.iter().map(|(words, _)| *words).collect();
    let found = guest.python(program, &arguments);
    let expected: Value = cases
        .iter()
        .map(|(words, outcome)| ((*words).to_owned(), outcome.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(found, expected, "{:#?}", guest.log());
}
