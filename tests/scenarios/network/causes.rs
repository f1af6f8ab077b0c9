//! Which command an event comes from, as the guest tells.

use std::io::{BufRead as _, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Child;

use serde_json::Value;
use smolvm_tests::{Host, wait};

/// Connects to a port of the host's loopback, tells its process ID, and asks for the host's name
/// again and again until the host hangs up.
const CLIENT: &str = include_str!("guest/client.py");

/// The name that stands for the host.
const HOST: &str = "host.smolvm.internal";

/// A port of the host's loopback that the guest may reach.
struct Port {
    listener: TcpListener,
    number: u16,
}

impl Port {
    fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let number = listener.local_addr().expect("bound").port();
        Self { listener, number }
    }

    /// Waits for a connection of the guest's.
    fn accept(&self) -> TcpStream {
        self.listener.accept().expect("a connection").0
    }
}

#[test]
fn each_event_comes_from_the_exec_or_job_that_caused_it() {
    let (first, second, third) = (Port::listen(), Port::listen(), Port::listen());
    let host = Host::new();
    start(&host, &[&first, &second, &third]);

    let mut clients = [&first, &second].map(|port| exec(&host, &client_of(port)));
    let _started = host
        .smolvm(
            &[
                &["job", "start", "box", "--job", "build", "--"][..],
                &words(&client_of(&third)),
            ]
            .concat(),
        )
        .ok();
    let connections = [&first, &second, &third].map(Port::accept);
    let pids = [
        pid_of(&mut clients[0]),
        pid_of(&mut clients[1]),
        job_pid(&host),
    ];

    let mut numbers = Vec::new();
    for (port, pid) in [&first, &second, &third].into_iter().zip(pids) {
        let opened = cause_of(&host, |event| goes_to(event, port.number));
        assert_eq!(opened["pid"], pid, "port {}", port.number);
        assert_eq!(opened["program"], "python3");
        assert_eq!(opened["has_ended"], false);
        let asked = cause(&host, |event, cause| {
            event["name"] == HOST && cause["pid"] == pid
        });
        assert_eq!(asked["exec"], opened["exec"]);
        numbers.push(opened["exec"].as_u64().expect("a number"));
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 3, "each has a number of its own");
    let of_job = cause_of(&host, |event| goes_to(event, third.number));
    assert_eq!(of_job["job"], "build");
    let of_exec = cause_of(&host, |event| goes_to(event, first.number));
    assert_eq!(of_exec["job"], Value::Null);
    let shown = host.smolvm(&["network", "log", "box"]).ok().text();
    assert!(shown.contains("[job build: python3, pid "), "{shown}");

    for connection in connections {
        connection.shutdown(Shutdown::Both).expect("open");
    }
    for mut client in clients {
        assert_eq!(wait(&mut client), 0);
    }
}

#[test]
fn daemon_is_of_the_exec_that_left_it_and_a_refusal_of_who_was_refused() {
    let port = Port::listen();
    let host = Host::new();
    start(&host, &[&port]);
    let [program, option, script, name, number] = client_of(&port);
    let line = "echo $$; setsid sh -c 'until test -e /tmp/go; do sleep 0.05; done; exec \"$@\"' \
                sh \"$@\" >/dev/null 2>&1 </dev/null &";
    let command = ["exec", "box", "--", "sh", "-c", line, "sh"];
    let left = [&command[..], &[&program, &option, &script, &name, &number]].concat();
    let pid: u64 = host
        .smolvm(&left)
        .ok()
        .text()
        .trim()
        .parse()
        .expect("a number");
    let _go = host.sh("box", "touch /tmp/go").ok();
    let connection = port.accept();
    let opened = cause_of(&host, |event| goes_to(event, port.number));
    assert_eq!(opened["pid"], pid);
    assert_eq!(opened["has_ended"], true);
    assert_eq!(opened["program"], "sh");
    drop(connection);

    // Nothing waits for the guest's answer for long, so that a busy one can be too late with it.
    let mut refused = Value::Null;
    host.wait_until("the cause of a refusal", |host| {
        let line =
            format!("exec python3 -c 'import socket; socket.create_connection((\"{HOST}\", 9))'");
        assert_ne!(host.sh("box", &line).code, 0);
        refused = find(host, |event, cause| goes_to(event, 9) && cause.is_object());
        refused.is_object()
    });
    assert_eq!(refused["program"], "sh");
}

/// Starts a sandbox that may reach these ports.
fn start(host: &Host, ports: &[&Port]) {
    let rules = ports
        .iter()
        .map(|port| format!("--allow={HOST}:{}", port.number));
    let rules: Vec<String> = rules.collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    host.start("box", &rules);
}

fn client_of(port: &Port) -> [String; 5] {
    let number = port.number.to_string();
    ["python3", "-c", CLIENT, HOST, &number].map(str::to_owned)
}

fn words(command: &[String; 5]) -> [&str; 5] {
    command.each_ref().map(String::as_str)
}

fn exec(host: &Host, command: &[String; 5]) -> Child {
    let all = [&["exec", "box", "--"][..], &words(command)].concat();
    host.command(&all).spawn().expect("smolvm")
}

/// Returns the process ID that a client has told.
fn pid_of(client: &mut Child) -> u64 {
    let mut line = String::new();
    let stdout = client.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    line.trim().parse().expect("a number")
}

fn job_pid(host: &Host) -> u64 {
    let listed = host.smolvm(&["job", "list", "box", "--json"]).ok().json();
    listed["data"]["jobs"][0]["pid"].as_u64().expect("a number")
}

fn goes_to(event: &Value, port: u16) -> bool {
    let destination = event["destination"].as_str();
    destination.is_some_and(|destination| destination.ends_with(&format!(":{port}")))
}

/// Waits for an event of which `is_it` holds, and returns its cause.
fn cause_of(host: &Host, is_it: impl Fn(&Value) -> bool) -> Value {
    cause(host, |event, _| is_it(event))
}

/// Waits for an event of which, with its cause, `is_it` holds. Returns the cause.
fn cause(host: &Host, is_it: impl Fn(&Value, &Value) -> bool) -> Value {
    let mut found = None;
    host.wait_until("the event in the log", |host| {
        found = first(host, &is_it);
        found.is_some()
    });
    found.expect("waited for")
}

fn find(host: &Host, is_it: impl Fn(&Value, &Value) -> bool) -> Value {
    first(host, &is_it).unwrap_or_default()
}

fn first(host: &Host, is_it: &impl Fn(&Value, &Value) -> bool) -> Option<Value> {
    let log = host
        .smolvm(&["network", "log", "box", "--json"])
        .ok()
        .json();
    let events = log["data"]["events"].as_array().expect("a list");
    let found = events
        .iter()
        .find(|record| is_it(&record["event"], &record["cause"]));
    found.map(|record| record["cause"].clone())
}
