//! A policy that changes while connections are open.

use std::io::{BufRead as _, BufReader, Read as _};

use smolvm_tests::lab::{ECHO, Guest, Lab, SILENT};
use smolvm_tests::wait;

/// Opens a connection to the echo, tells so, and then how it ended.
const HOLD: &str = "
import errno, socket, sys
connection = socket.create_connection((sys.argv[1], 7), 60)
connection.sendall(b'x')
print(connection.recv(1).decode(), flush=True)
connection.settimeout(None)
try:
    print('data' if connection.recv(1) else 'end')
except OSError as error:
    print(errno.errorcode[error.errno])
";

#[test]
fn rule_that_denies_ends_the_connections_that_it_is_about() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net=open"]);
    let command = ["exec", "box", "--", "python3", "-c", HOLD, ECHO];
    let mut holding = lab.host.command(&command).spawn().expect("smolvm");
    let mut said = BufReader::new(holding.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    assert_eq!(line, "x\n");
    let _allowed = guest.network("deny", &["203.0.113.99"]).ok();
    let _denied = guest.network("deny", &[ECHO]).ok();
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "ECONNRESET\n");
    assert_eq!(wait(&mut holding), 0);
    let log = guest.log();
    let reasons: Vec<&str> = log
        .iter()
        .filter_map(|event| event["reason"].as_str())
        .collect();
    assert!(
        reasons.contains(&"denied by a change of the policy"),
        "{reasons:?}"
    );
}

/// Makes a connection, and tells what came of it.
const KNOCK: &str = "
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], 7))
    print('open')
except OSError as error:
    print(errno.errorcode[error.errno])
";

#[test]
fn rule_that_denies_ends_connections_that_are_being_made() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net=open"]);
    let command = ["exec", "box", "--", "python3", "-c", KNOCK, SILENT];
    let mut knocking = lab.host.command(&command).spawn().expect("smolvm");
    lab.host
        .wait_until("the connection that is being made", |_| {
            let sockets = lab.run(&["ss", "-ntH", "state", "syn-sent"]);
            sockets.ok().text().contains(&format!("{SILENT}:7"))
        });
    let _denied = guest.network("deny", &[SILENT]).ok();
    let mut said = String::new();
    let mut stdout = knocking.stdout.take().expect("piped");
    stdout.read_to_string(&mut said).expect("text");
    assert_eq!(said, "ECONNREFUSED\n");
    assert_eq!(wait(&mut knocking), 0);
}

#[test]
fn change_takes_effect_at_once_and_outlives_the_machine() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net=restricted"]);
    assert_eq!(fetched(&guest), 6);
    let _allowed = guest.network("allow", &["web.lab.test"]).ok();
    assert_eq!(fetched(&guest), 0);
    let shown = guest.network("show", &["--json"]).ok().json();
    assert_eq!(
        shown["data"]["rules"],
        serde_json::json!(["allow web.lab.test"])
    );
    let _stopped = lab.host.smolvm(&["stop", "box"]).ok();
    let _started = lab.host.smolvm(&["start", "box"]).ok();
    assert_eq!(
        guest.network("show", &["--json"]).ok().json()["data"],
        shown["data"]
    );
    assert_eq!(fetched(&guest), 0);
    let _removed = guest.network("remove", &["allow web.lab.test"]).ok();
    assert_ne!(fetched(&guest), 0);
    let _opened = guest.network("set", &["open"]).ok();
    assert_eq!(fetched(&guest), 0);
    let _off = guest.network("set", &["off"]).ok();
    assert_ne!(fetched(&guest), 0);
}

/// Returns what curl ends with: 0 is a page, 6 no address, 7 no connection.
fn fetched(guest: &Guest<'_>) -> i32 {
    guest.sh("curl -sS --max-time 30 http://web.lab.test/").code
}
