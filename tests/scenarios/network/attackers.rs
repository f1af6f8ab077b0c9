//! A guest that sends what no kernel sends, or more than anybody should.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use smolvm_tests::lab::{Guest, Lab};

use super::guest::{FRAMES, REACH};

/// Flows that a flood opens.
const FLOOD: u64 = 100_000;

/// Memory that a flood may cost the supervisor, in KiB: that of all the flows there may be.
const FLOOD_KIB: u64 = 64 * 1024;

/// What the log says of the frames.
const DROPPED: &[&str] = &[
    "spoofed source address",
    "spoofed hardware address",
    "hardware address of nobody",
    "IP options",
    "IP fragment",
    "IPv6 extension header",
    "protocol other than TCP, UDP and ICMP",
    "protocol other than IP and ARP",
    "multicast or broadcast",
    "ICMP message other than a ping",
    "malformed IP header",
    "port 0",
];

/// What the log says of those that are packets like others, to where none may go.
const DENIED: &[(&str, &str)] = &[
    ("127.0.0.1:7", "built-in: loopback of the host"),
    ("127.0.0.1:8080", "built-in: loopback of the host"),
    ("[::1]:7", "built-in: loopback of the host"),
    ("[fe80::99]:7", "built-in: link-local address"),
    // A tunnel in pings.
    ("203.0.113.20:0", "mode: restricted"),
];

#[test]
fn frames_that_no_kernel_makes_get_nowhere_and_are_told() {
    let lab = Lab::new();
    let guest = lab.guest(
        "box",
        &[
            "--allow=web.lab.test",
            "--allow=203.0.113.20:7/udp",
            "--allow=[2001:db8:2::20]:7/udp",
        ],
    );
    let _sent = guest.python(FRAMES, &[]);
    lab.host.wait_until("the last datagram", |_| {
        echoed(&lab).contains("legit-after")
    });
    let expected = ["legit", "legit-after", "legit-v6"].map(str::to_owned);
    assert_eq!(echoed(&lab), BTreeSet::from(expected));
    assert_eq!(lab.arrivals_at_host(), Vec::<Value>::new());
    // The forged answer has made no name of that address.
    let claimed = "tcp 203.0.113.77 80";
    assert_eq!(
        guest.python(REACH, &[claimed]),
        json!({claimed: "ECONNREFUSED"})
    );
    let log = guest.log();
    for (destination, rule) in DENIED {
        let told = log
            .iter()
            .find(|event| event["destination"] == *destination);
        let verdict = told.map(|event| event["verdict"].clone());
        let expected = json!({"is_allowed": false, "rule": rule});
        assert_eq!(verdict, Some(expected), "{destination}");
    }
    lab.host.wait_until("what was dropped in the log", |_| {
        let log = guest.log();
        let reasons: BTreeSet<&str> = log
            .iter()
            .filter(|event| event["type"] == "dropped")
            .filter_map(|event| event["reason"].as_str())
            .collect();
        DROPPED.iter().all(|reason| reasons.contains(reason))
    });
}

#[test]
fn flood_costs_bounded_memory_and_nobody_else_the_network() {
    let lab = Lab::new();
    let flooding = lab.guest("box", &["--allow=203.0.113.64/26/any"]);
    let other = lab.guest("other", &["--net=open"]);
    let supervisor = supervisor_of(&lab, "box");
    let before_kib = resident_kib(supervisor);
    let count = FLOOD.to_string();
    // Connections that are denied flood the log; exchanges that are allowed fill the table.
    for flood in ["flood-tcp", "flood-udp"] {
        let _sent = flooding.python(FRAMES, &[flood, &count]);
        let page = other.sh("curl -sS http://web.lab.test/").ok().json();
        assert_eq!(page["host"], "web.lab.test");
    }
    let grown_kib = resident_kib(supervisor).saturating_sub(before_kib);
    assert!(grown_kib < FLOOD_KIB, "{grown_kib} KiB more");
    assert_log_says_what_is_missing(&flooding);
    // Its flows end with what allowed them, and the network is usable again.
    let _changed = flooding
        .network("set", &["restricted", "--allow=web.lab.test"])
        .ok();
    let page =
        flooding.sh("curl -sS --retry 20 --retry-all-errors --retry-delay 1 http://web.lab.test/");
    assert_eq!(page.ok().json()["host"], "web.lab.test");
}

/// Checks that what the log does not have is in its counts.
fn assert_log_says_what_is_missing(guest: &Guest<'_>) {
    let records = guest.records();
    let is_lost = |record: &&Value| record["event"]["type"] == "lost";
    let kept: Vec<u64> = records
        .iter()
        .filter(|record| !is_lost(record))
        .map(|record| record["sequence"].as_u64().expect("a number"))
        .collect();
    let lost: u64 = records
        .iter()
        .skip_while(is_lost)
        .filter(is_lost)
        .map(|record| record["event"]["events"].as_u64().expect("a number"))
        .sum();
    let (first, last) = (kept.iter().min(), kept.iter().max());
    let span = last.expect("events") - first.expect("events") + 1;
    let count = u64::try_from(kept.len()).expect("a count");
    assert_eq!(span, count + lost);
    let refused = "too many connections at once";
    let told: u64 = records
        .iter()
        .filter(|record| record["event"]["reason"] == refused)
        .map(|record| record["event"]["frames"].as_u64().expect("a number"))
        .sum();
    assert!(told > FLOOD / 2, "the log tells of {told} {refused:?}");
}

/// Returns the names of the datagrams that have reached the echo.
fn echoed(lab: &Lab) -> BTreeSet<String> {
    lab.arrivals()
        .iter()
        .filter(|arrival| arrival["service"] == "udp")
        .map(|arrival| arrival["first"].as_str().expect("text").to_owned())
        .collect()
}

fn supervisor_of(lab: &Lab, name: &str) -> u32 {
    let directory = lab.host.sandbox(name);
    let directory = directory.to_str().expect("text");
    let processes = lab.host.processes();
    let found = processes
        .iter()
        .find(|(_, line)| line.contains("supervise") && line.contains(directory));
    found.unwrap_or_else(|| panic!("{processes:?}")).0
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a line");
    line.split_whitespace()
        .nth(1)
        .expect("a size")
        .parse()
        .expect("a number")
}
