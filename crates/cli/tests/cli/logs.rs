//! `logs`: what a console said, and what it goes on to say.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};

use crate::home::Home;

#[test]
fn console_and_supervisor_logs_are_told_apart() {
    let home = Home::new();
    home.run(&["create", "-n", "box", "--start"]);
    let console = home.sandboxes().join("box/console.log");
    std::fs::write(&console, "one\ntwo\nthree\n").expect("a console log");
    home.run(&["logs", "box"]).said("one\ntwo\nthree\n");
    home.run(&["logs", "-n", "2", "box"]).said("two\nthree\n");
    assert_eq!(home.data(&["logs", "-n", "1", "box"])["lines"][0], "three");
    let supervisor = home.run(&["logs", "--supervisor", "box"]);
    assert!(
        supervisor.stdout().contains("sandbox ready"),
        "{supervisor:?}"
    );
    home.run(&["delete", "box"]);
}

#[test]
fn supervisors_of_many_starts_share_a_log_of_bounded_size() {
    let home = Home::new();
    home.run(&["create", "-n", "box"]);
    let directory = home.sandboxes().join("box");
    let log = directory.join("supervisor.log");
    // What hundreds of starts would have left.
    std::fs::write(&log, "earlier\n".repeat(200_000)).expect("a log");
    home.run(&["start", "box"]);
    let begun_anew = std::fs::read_to_string(&log).expect("a new log");
    assert!(begun_anew.contains("sandbox ready"), "{begun_anew:.200}");
    assert!(!begun_anew.contains("earlier"), "the full log goes on");
    let before = std::fs::read_to_string(directory.join("supervisor.log.1")).expect("kept");
    assert!(before.ends_with("earlier\n"));
    // A panic is written to the error output.
    let info = home.data(&["info", "box"]);
    let supervisor = &info["vm"]["machine"]["supervisor_pid"];
    let errors = std::fs::read_link(format!("/proc/{supervisor}/fd/2")).expect("it runs");
    assert_eq!(errors, log.canonicalize().expect("it exists"));
    home.run(&["delete", "box"]);
}

#[test]
fn followed_log_goes_on_until_the_sandbox_has_ended() {
    let home = Home::new();
    home.run(&["create", "-n", "box", "--start"]);
    let console = home.sandboxes().join("box/console.log");
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&console)
        .expect("the console log");
    log.write_all(b"before\n").expect("written");
    let mut child = home
        .command(&["logs", "-f", "box"])
        .spawn()
        .expect("smolvm starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().map(|line| line.expect("text"));
    assert_eq!(next().as_deref(), Some("before"));
    log.write_all(b"after\n").expect("written");
    assert_eq!(next().as_deref(), Some("after"));
    home.run(&["stop", "box"]);
    assert_eq!(next(), None);
    assert!(child.wait().expect("smolvm ends").success());
    home.run(&["delete", "box"]);
}

#[test]
fn followed_log_is_no_document() {
    let home = Home::new();
    home.run(&["create", "-n", "box"]);
    let ended = home.run(&["--json", "logs", "-f", "box"]);
    assert_eq!(ended.document()["error"]["code"], "invalid_input");
    home.run(&["delete", "box"]);
}
