//! The commands beside run and exec: variables, files, ports, pause, labels.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use smolvm_tests::{Host, PATIENCE};

#[test]
fn variables_reach_login_shells_and_are_listed_masked() {
    let host = Host::new();
    host.start("box", &[]);
    let set = host
        .smolvm(&[
            "env",
            "set",
            "box",
            "TOKEN=it's a \"secret\"",
            "MODE=a=b",
            "--json",
        ])
        .ok()
        .json();
    assert_eq!(set["command"], "env.set");
    assert_eq!(
        set["data"]["present_keys"],
        serde_json::json!(["MODE", "TOKEN"])
    );
    let seen = host
        .smolvm(&[
            "exec",
            "box",
            "--",
            "sh",
            "-lc",
            "printf '%s|%s' \"$TOKEN\" \"$MODE\"",
        ])
        .ok()
        .text();
    assert_eq!(seen, "it's a \"secret\"|a=b");
    let masked = host.smolvm(&["env", "list", "box"]).ok().text();
    assert_eq!(masked, "MODE=****\nTOKEN=****\n");
    let unset = host
        .smolvm(&["env", "unset", "box", "MODE", "NEVER", "--json"])
        .ok()
        .json();
    assert_eq!(unset["data"]["removed_keys"], serde_json::json!(["MODE"]));
    assert_eq!(unset["data"]["missing_keys"], serde_json::json!(["NEVER"]));
    let refused = host.smolvm(&["env", "set", "box", "1BAD=x"]);
    assert_eq!(refused.code, 1);
    assert!(refused.errors().contains("1BAD"), "{}", refused.errors());
}

#[test]
fn file_arrives_and_comes_back_the_same() {
    let host = Host::new();
    host.start("box", &[]);
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let (there, back) = (host.path().join("there"), host.path().join("back"));
    fs::write(&there, &content).expect("write");
    let uploaded = host
        .smolvm(&[
            "file",
            "upload",
            "box",
            text(&there),
            "/srv/data.bin",
            "--json",
        ])
        .ok()
        .json();
    assert_eq!(uploaded["data"]["bytes"], content.len());
    let _downloaded = host
        .smolvm(&["file", "download", "box", "/srv/data.bin", text(&back)])
        .ok();
    assert!(
        fs::read(&back).expect("read") == content,
        "the file came back changed"
    );
}

#[test]
fn exposed_port_carries_a_request_until_it_is_closed() {
    let host = Host::new();
    host.start("box", &[]);
    let _started = host
        .sh(
            "box",
            "mkdir /srv/www && echo hello from the guest > /srv/www/index.txt && cd /srv/www && \
             (setsid python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 &) && \
             python3 -c 'import socket, time\nwhile True:\n  try: socket.create_connection((\"127.0.0.1\", 8000)); break\n  except OSError: time.sleep(0.1)'",
        )
        .ok();
    let exposed = host
        .smolvm(&["port", "expose", "box", "8000", "--json"])
        .ok()
        .json();
    let port = exposed["data"]["host_port"].as_u64().expect("a port");
    let port = u16::try_from(port).expect("a port");
    assert!(get(port).contains("hello from the guest"));
    let again = host
        .smolvm(&["port", "expose", "box", "8000", "--json"])
        .ok()
        .json();
    assert_eq!(
        again["data"]["host_port"], port,
        "the same pair is the same forward"
    );
    let listed = host.smolvm(&["port", "list", "box", "--json"]).ok().json();
    assert_eq!(listed["data"]["ports"][0]["guest_port"], 8000);
    let _closed = host
        .smolvm(&["port", "close", "box", &port.to_string()])
        .ok();
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_err(),
        "the port is still open"
    );
}

#[test]
fn paused_sandbox_refuses_commands_and_goes_on_where_it_was() {
    let host = Host::new();
    host.start("box", &[]);
    let _noted = host.sh("box", "echo kept > /dev/shm/note").ok();
    let paused = host.smolvm(&["pause", "box", "--json"]).ok().json();
    assert_eq!(paused["data"]["vm"]["status"], "paused");
    let refused = host.sh("box", "true");
    assert_eq!(refused.code, 125);
    assert!(refused.errors().contains("paused"), "{}", refused.errors());
    let _resumed = host.smolvm(&["resume", "box"]).ok();
    assert_eq!(host.sh("box", "cat /dev/shm/note").ok().text(), "kept\n");
    assert_eq!(host.smolvm(&["resume", "box"]).code, 1, "it runs already");
}

#[test]
fn labels_are_shown_and_select() {
    let host = Host::new();
    let create = |name: &str, label: &str| {
        let _created = host.smolvm(&["create", "-n", name, "--label", label]).ok();
    };
    create("one", "job=build");
    create("two", "job=test");
    let listed = host
        .smolvm(&["list", "--all", "--label", "job=test", "--json"])
        .ok()
        .json();
    let vms = listed["data"]["vms"].as_array().expect("a list");
    assert_eq!(vms.len(), 1);
    assert_eq!(vms[0]["labels"]["job"], "test");
    let _deleted = host.smolvm(&["delete", "--all"]).ok();
}

fn get(port: u16) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    connection
        .set_read_timeout(Some(PATIENCE))
        .expect("a live socket");
    let request = b"GET /index.txt HTTP/1.0\r\n\r\n";
    connection.write_all(request).expect("the guest reads");
    let mut answer = String::new();
    connection
        .read_to_string(&mut answer)
        .expect("the guest answers");
    answer
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a path of this test")
}
