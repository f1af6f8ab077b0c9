//! The log of a sandbox's network: what was asked for, the verdict with its rule, what came of it.

use serde_json::{Value, json};
use smolvm_tests::lab::{ECHO, Guest, Lab, WEB};

use super::guest::REACH;

/// Bytes of the page that is fetched.
const PAGE_BYTES: u64 = 100_000;

#[test]
fn log_tells_verdicts_with_their_rules_and_what_was_carried() {
    let lab = Lab::new();
    let guest = lab.guest(
        "box",
        &[
            "--net=restricted",
            "--allow=web.lab.test",
            "--deny=203.0.113.20",
        ],
    );
    let url = format!("https://web.lab.test/bytes/{PAGE_BYTES}");
    let _fetched = guest
        .sh(&format!(
            "curl -sS -4 --cacert $CA --output /dev/null {url}"
        ))
        .ok();
    let refused = guest.sh("curl -sS http://other.lab.test/");
    assert_eq!(refused.code, 6);
    let _denied = guest.python(REACH, &[&format!("tcp {ECHO} 7")]);

    let by_rule = json!({"is_allowed": true, "rule": "allow web.lab.test"});
    let asked = first(&guest, |event| {
        event["name"] == "web.lab.test" && event["record_type"] == "A"
    });
    assert_eq!(asked["type"], "dns");
    assert_eq!(asked["verdict"], by_rule);
    assert_eq!(asked["outcome"], "NOERROR");
    assert_eq!(asked["addresses"], json!([WEB]));

    let opened = first(&guest, |event| event["destination"] == format!("{WEB}:443"));
    assert_eq!(opened["type"], "connection");
    assert_eq!(opened["protocol"], "tcp");
    assert_eq!(opened["name"], "web.lab.test");
    assert_eq!(opened["verdict"], by_rule);
    let is_of_it = |event: &Value| event["connection"] == opened["connection"];

    let shown = first(&guest, |event| event["type"] == "name" && is_of_it(event));
    assert_eq!(shown["shown_by"], "tls");
    assert_eq!(shown["name"], "web.lab.test");
    assert_eq!(shown["verdict"], by_rule);

    let closed = first(&guest, |event| event["type"] == "closed" && is_of_it(event));
    assert!(
        closed["received_bytes"].as_u64() > Some(PAGE_BYTES),
        "{closed}"
    );
    assert!(closed["sent_bytes"].as_u64() > Some(100), "{closed}");
    assert!(closed["duration_ms"].is_u64(), "{closed}");
    assert_eq!(closed["reason"], "closed");

    let asked = first(&guest, |event| {
        event["name"] == "other.lab.test" && event["record_type"] == "A"
    });
    assert_eq!(
        asked["verdict"],
        json!({"is_allowed": false, "rule": "mode: restricted"})
    );
    assert_eq!(asked["outcome"], "REFUSED");
    let denied = first(&guest, |event| event["destination"] == format!("{ECHO}:7"));
    assert_eq!(
        denied["verdict"],
        json!({"is_allowed": false, "rule": "deny 203.0.113.20"})
    );
}

#[test]
fn log_tells_a_change_of_the_policy_and_its_numbers_have_no_gap() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net=open"]);
    let _before = guest.sh("curl -sS http://web.lab.test/").ok();
    let _changed = guest.network("deny", &["web.lab.test"]).ok();
    assert_ne!(guest.sh("curl -sS http://web.lab.test/").code, 0);
    let records = guest.records();
    let numbers: Vec<u64> = records
        .iter()
        .map(|record| record["sequence"].as_u64().expect("a number"))
        .collect();
    let expected: Vec<u64> = (0..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
    let changed = first(&guest, |event| event["type"] == "policy");
    let summary = changed["summary"].as_str().expect("text");
    assert!(summary.contains("deny web.lab.test"), "{summary}");
}

/// Waits for an event of which `is_it` holds, and returns the first one: some are told a moment
/// after they happened, and some things a guest does again.
fn first(guest: &Guest<'_>, is_it: impl Fn(&Value) -> bool) -> Value {
    let mut found = None;
    guest.wait_until("the event in the log", || {
        found = guest.log().into_iter().find(&is_it);
        found.is_some()
    });
    found.expect("waited for")
}
