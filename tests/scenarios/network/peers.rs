//! Private networks: members reach each other by name, others do not, and each side's policy and
//! log is its own.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use smolvm_tests::Host;

use super::guest::{FORGE, REACH, SERVE};

/// Bytes of a line that a client sends and gets back.
const LINE_BYTES: usize = 300_000;

/// Connects to a peer, says a long line, half-closes, and prints what the peer sees of it and how
/// much came back.
const TALK: &str = "
import json, socket, sys
with socket.create_connection((sys.argv[1], 7000), 30) as peer:
    peer.sendall(b'x' * int(sys.argv[2]))
    peer.shutdown(socket.SHUT_WR)
    answer = b''
    while piece := peer.recv(1 << 16):
        answer += piece
seen, _, echoed = answer.partition(b'\\n')
print(json.dumps({'seen': seen.decode(), 'echoed': len(echoed)}))
";

/// Keeps a connection to a peer, makes the file /tmp/held, and prints how it ended.
const HOLD: &str = "
import errno, socket, sys
with socket.create_connection((sys.argv[1], 7000), 60) as peer:
    peer.recv(1 << 16)
    open('/tmp/held', 'w').close()
    try:
        print(peer.recv(1 << 16))
    except OSError as error:
        print(errno.errorcode[error.errno])
";

#[test]
fn members_reach_each_other_by_name_and_nobody_else_does() {
    let host = Host::new();
    host.start("db", &["--network=team", "--net=restricted"]);
    host.start(
        "web",
        &["--network=lab", "--network=team", "--net=restricted"],
    );
    host.start("other", &["--network=else"]);
    let _serving = python(&host, "db", SERVE, &[]);

    let talk = python(&host, "web", TALK, &["db", &LINE_BYTES.to_string()]);
    assert_eq!(talk["echoed"], LINE_BYTES);
    let seen: Ipv4Addr = talk["seen"].as_str().expect("text").parse().expect("IPv4");
    assert_eq!(seen.octets()[..2], [172, 16], "{seen}");
    check(
        &host,
        "web",
        &[
            ("tcp db 7000", "open"),
            ("tcp db.peer.smolvm.internal 7000", "open"),
            ("udp db 7000", "answered"),
            // Only on the loopback of its guest, and not at all.
            ("tcp db 7001", "ECONNREFUSED"),
            ("tcp db 7002", "ECONNREFUSED"),
            ("tcp other 7000", "no such name"),
            ("tcp nobody.peer.smolvm.internal 7000", "no such name"),
            // A public name is nobody\'s in a network.
            ("tcp db.example.com 7000", "no such name"),
        ],
    );
    let at = address_of(&host, "web", "db");
    check(
        &host,
        "other",
        &[
            ("tcp db 7000", "no such name"),
            (&format!("tcp {at} 7000"), "ECONNREFUSED"),
        ],
    );
    assert_logs_agree(&host);
    let shown = host.smolvm(&["network", "show", "web"]).ok().text();
    assert_eq!(
        shown,
        "restricted\n# network lab: web\n# network team: db, web\n"
    );
    let info = host.smolvm(&["info", "web", "--json"]).ok().json();
    assert_eq!(info["data"]["vm"]["networks"], json!(["lab", "team"]));

    // A member that does not run is refused at once; one that is gone has no name.
    let refused = [("tcp db 7000", "ECONNREFUSED")];
    let _paused = host.smolvm(&["pause", "db"]).ok();
    check(&host, "web", &refused);
    let _resumed = host.smolvm(&["resume", "db"]).ok();
    check(&host, "web", &[("tcp db 7000", "open")]);
    let _stopped = host.smolvm(&["stop", "db"]).ok();
    check(&host, "web", &refused);
    let _deleted = host.smolvm(&["delete", "db"]).ok();
    check(&host, "web", &[("tcp db 7000", "no such name")]);
}

#[test]
fn each_side_denies_for_itself_and_at_once() {
    let host = Host::new();
    host.start("db", &["--network=team", "--deny=from web:7001"]);
    host.start("web", &["--network=team"]);
    let _serving = python(&host, "db", SERVE, &[]);
    let _opened = python(&host, "web", TALK, &["db", "10"]);
    check(&host, "web", &[("tcp db 7001", "ECONNREFUSED")]);
    await_denial(&host, "db", "incoming", "deny from web:7001");

    // What is open ends with the rule that denies it.
    let held = host
        .command(&["exec", "web", "--", "python3", "-c", HOLD, "db"])
        .spawn()
        .expect("smolvm is built");
    host.wait_until("the held connection", |host| {
        host.sh("web", "test -e /tmp/held").code == 0
    });
    let _denied = host
        .smolvm(&["network", "deny", "db", "from web.peer.smolvm.internal"])
        .ok();
    let output = held.wait_with_output().expect("ended");
    let how = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(how, "ECONNRESET\n");
    check(&host, "web", &[("tcp db 7000", "ECONNREFUSED")]);

    let remove = "deny from web.peer.smolvm.internal";
    let _removed = host.smolvm(&["network", "remove", "db", remove]).ok();
    check(&host, "web", &[("tcp db 7000", "open")]);
    let _denied = host.smolvm(&["network", "deny", "web", "db:7000"]).ok();
    let asked = events(&host, "db", "incoming").len();
    check(&host, "web", &[("tcp db 7000", "ECONNREFUSED")]);
    await_denial(&host, "web", "connection", "deny db:7000");
    assert_eq!(events(&host, "db", "incoming").len(), asked);
    let _off = host.smolvm(&["network", "set", "web", "off"]).ok();
    let outcome = python(&host, "web", REACH, &["tcp db 7000"]);
    assert_eq!(outcome["tcp db 7000"], "no such name");
}

#[test]
fn datagram_from_an_address_of_somebody_else_does_not_reach_a_peer() {
    let host = Host::new();
    host.start("db", &["--network=team"]);
    host.start("web", &["--network=team"]);
    let _serving = python(&host, "db", SERVE, &[]);
    check(&host, "web", &[("udp db 7000", "answered")]);
    let at = address_of(&host, "web", "db");
    let sources = [&*at, "172.16.0.1", "172.16.64.9", "10.0.0.1", "172.16.0.2"];
    let _sent = python(&host, "web", FORGE, &[&[&*at], &sources[..]].concat());
    let arrived = || host.sh("db", "cat /tmp/datagrams").ok().text();
    // They go the same way in order, and the last one is the guest's own.
    host.wait_until("the honest datagram", |_| arrived().contains("172.16.0.2"));
    assert_eq!(arrived(), "reach\n172.16.0.2\n");
    host.wait_until("what was dropped in the log", |host| {
        let dropped = events(host, "web", "dropped");
        let spoofed = dropped
            .iter()
            .filter(|event| event["reason"] == "spoofed source address");
        spoofed
            .filter_map(|event| event["frames"].as_u64())
            .sum::<u64>()
            == 4
    });
}

/// Runs a Python program in a sandbox, and returns the JSON document that it prints.
fn python(host: &Host, name: &str, program: &str, arguments: &[&str]) -> Value {
    let command = [&["exec", name, "--", "python3", "-c", program], arguments].concat();
    host.smolvm(&command).ok().json()
}

/// Tries destinations from a sandbox, and expects what comes of each.
fn check(host: &Host, name: &str, cases: &[(&str, &str)]) {
    let destinations: Vec<&str> = cases.iter().map(|(destination, _)| *destination).collect();
    let found = python(host, name, REACH, &destinations);
    let expected: serde_json::Map<_, _> = cases
        .iter()
        .map(|&(destination, outcome)| (destination.to_owned(), outcome.into()))
        .collect();
    assert_eq!(found, Value::from(expected), "{:#?}", log(host, name));
}

/// Returns the address by which a sandbox knows a peer.
fn address_of(host: &Host, name: &str, peer: &str) -> String {
    let line = format!("getent ahostsv4 {peer} | head -n 1 | cut -d' ' -f1");
    host.sh(name, &line).ok().text().trim().to_owned()
}

/// Returns the events of a sandbox's network, oldest first.
fn log(host: &Host, name: &str) -> Vec<Value> {
    let document = host.smolvm(&["network", "log", name, "--json"]).ok().json();
    let records = document["data"]["events"]
        .as_array()
        .expect("a list")
        .clone();
    records
        .iter()
        .map(|record| record["event"].clone())
        .collect()
}

fn events(host: &Host, name: &str, kind: &str) -> Vec<Value> {
    let mut events = log(host, name);
    events.retain(|event| event["type"] == kind);
    events
}

/// Waits until the log tells of a denial by this rule.
fn await_denial(host: &Host, name: &str, kind: &str, rule: &str) {
    let verdict = json!({"is_allowed": false, "rule": rule});
    host.wait_until("the denial in the log", |host| {
        let events = events(host, name, kind);
        events.iter().any(|event| event["verdict"] == verdict)
    });
}

/// Checks that the first connection of `web` to `db` is told of in the same way by both.
fn assert_logs_agree(host: &Host) {
    let allowed = json!({"is_allowed": true, "rule": "network: team"});
    let out = events(host, "web", "connection")[0].clone();
    assert_eq!((&out["peer"], &out["verdict"]), (&json!("db"), &allowed));
    assert_eq!(out["name"], "db.peer.smolvm.internal");
    let entered = events(host, "db", "incoming")[0].clone();
    assert_eq!(
        (&entered["peer"], &entered["verdict"]),
        (&json!("web"), &allowed)
    );
    assert_eq!(entered["destination"], "172.16.0.2:7000");
    let line = u64::try_from(LINE_BYTES).expect("small");
    for (name, opened, sent, received) in [
        ("web", out, line..=line, line..=line + 100),
        ("db", entered, line..=line + 100, line..=line),
    ] {
        let closed = events(host, name, "closed");
        let end = closed
            .iter()
            .find(|end| end["connection"] == opened["connection"]);
        let end = end.expect("its end");
        assert_eq!(end["reason"], "closed", "{end}");
        let bytes = |of: &str| end[of].as_u64().expect("a number");
        assert!(sent.contains(&bytes("sent_bytes")), "{end}");
        assert!(received.contains(&bytes("received_bytes")), "{end}");
    }
}
