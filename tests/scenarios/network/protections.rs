//! What is denied in every mode unless a rule is about it: the host, private networks, metadata.

use serde_json::{Value, json};
use smolvm_tests::lab::{Guest, HOST, Lab};

use super::guest::REACH;

/// Destinations that answer in the lab, and the protection that denies each.
const PROTECTED: &[(&str, &str)] = &[
    ("tcp 198.51.100.1 8080", "built-in: address of the host"),
    ("tcp 2001:db8:1::1 8080", "built-in: address of the host"),
    ("tcp 10.9.8.7 80", "built-in: private address"),
    ("tcp 172.20.0.1 80", "built-in: private address"),
    ("tcp 192.168.1.1 80", "built-in: private address"),
    ("tcp fd00::1 80", "built-in: private address"),
    ("tcp 169.254.1.1 80", "built-in: link-local address"),
    ("tcp 169.254.169.254 80", "built-in: cloud metadata"),
    ("udp 169.254.169.254 7", "built-in: cloud metadata"),
    ("ping 10.9.8.7 0", "built-in: private address"),
];

#[test]
fn protected_addresses_are_denied_in_every_mode() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net=open"]);
    expect_all_denied(&guest);
    let everything = [
        "restricted",
        "--allow=0.0.0.0/0/any",
        "--allow=::/0/any",
        "--allow=*",
    ];
    let _set = guest.network("set", &everything).ok();
    expect_all_denied(&guest);
    assert_eq!(lab.arrivals(), Vec::<Value>::new());
    assert_eq!(lab.arrivals_at_host(), Vec::<Value>::new());
    for &(destination, rule) in PROTECTED {
        let address = destination.split(' ').nth(1).expect("an address");
        let verdicts: Vec<Value> = guest
            .log()
            .iter()
            .filter(|event| {
                event["destination"]
                    .as_str()
                    .is_some_and(|to| to.contains(address))
            })
            .map(|event| event["verdict"].clone())
            .collect();
        let expected = json!({"is_allowed": false, "rule": rule});
        assert!(verdicts.len() >= 2, "{destination}: {:#?}", guest.log());
        assert!(
            verdicts.iter().all(|verdict| *verdict == expected),
            "{destination}: {verdicts:?}"
        );
    }
}

#[test]
fn rule_about_a_protected_network_opens_it_alone() {
    let lab = Lab::new();
    let guest = lab.guest(
        "box",
        &[
            "--net=open",
            "--allow=10.0.0.0/8",
            "--allow=169.254.169.254:80",
            "--allow=198.51.100.1",
        ],
    );
    let destinations = [
        "tcp 10.9.8.7 80",
        "tcp 192.168.1.1 80",
        "tcp 169.254.169.254 80",
        "tcp 169.254.169.254 8080",
        "tcp 198.51.100.1 8080",
    ];
    let outcomes = guest.python(REACH, &destinations);
    let found = destinations.map(|destination| outcomes[destination].clone());
    assert_eq!(
        found,
        ["open", "ECONNREFUSED", "open", "ECONNREFUSED", "open"]
    );
    let at_host = lab.arrivals_at_host();
    assert!(
        at_host.iter().all(|arrival| arrival["address"] == HOST),
        "{at_host:?}"
    );
}

#[test]
fn host_is_reached_by_its_name_at_the_ports_that_rules_name() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net=open"]);
    let get = |port: u16| guest.sh(&format!("curl -sS http://host.smolvm.internal:{port}/"));
    let expect_loopback = || assert_eq!(get(8080).ok().json()["address"], "127.0.0.1");
    assert_ne!(get(8080).code, 0);
    let rule = "host.smolvm.internal:8080";
    let _allowed = guest.network("allow", &[rule]).ok();
    expect_loopback();
    assert_eq!(get(8081).code, 7);
    let _set = guest.network("set", &["restricted", "--allow", rule]).ok();
    expect_loopback();
    let _off = guest.network("set", &["off", "--allow", rule]).ok();
    assert_ne!(get(8080).code, 0);
}

fn expect_all_denied(guest: &Guest<'_>) {
    let destinations: Vec<&str> = PROTECTED
        .iter()
        .map(|(destination, _)| *destination)
        .collect();
    let outcomes = guest.python(REACH, &destinations);
    for destination in destinations {
        let outcome = outcomes[destination].as_str().expect("text");
        assert!(
            matches!(outcome, "ECONNREFUSED" | "EACCES" | "EHOSTUNREACH"),
            "{destination}: {outcome}"
        );
    }
}
