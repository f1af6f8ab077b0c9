//! Sudden ends: of the client, the supervisor, the VMM, the guest's kernel. Nothing may be left.

use smolvm_tests::{Host, kill, wait};

fn status(host: &Host, name: &str) -> (String, String) {
    let info = host.smolvm(&["info", name, "--json"]).ok().json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (
        text(&info["data"]["vm"]["status"]),
        text(&info["data"]["vm"]["reason"]),
    )
}

#[test]
fn killed_client_takes_its_ephemeral_sandbox_with_it() {
    let host = Host::new();
    let mut client = host
        .command(&["run", "--", "sleep", "1000"])
        .spawn()
        .expect("spawned");
    host.wait_until("the guest's command", |host| {
        host.smolvm(&["list", "--json"]).json()["data"]["vms"]
            .as_array()
            .is_some_and(|sandboxes| !sandboxes.is_empty())
    });
    kill(client.id());
    assert_eq!(wait(&mut client), 128 + 9);
    host.wait_until("the sandbox's end", |host| {
        host.processes().is_empty() && host.remains().is_empty()
    });
}

#[test]
fn client_killed_at_any_moment_of_the_start_leaves_nothing() {
    let host = Host::new();
    for milliseconds in [1, 20, 60, 150, 400, 900, 1500] {
        let mut client = host
            .command(&["run", "--", "sleep", "1000"])
            .spawn()
            .expect("spawned");
        let until = std::time::Instant::now() + std::time::Duration::from_millis(milliseconds);
        // The moment itself is what varies here; there is no event to wait for.
        while std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        kill(client.id());
        assert_eq!(wait(&mut client), 128 + 9);
        host.wait_until("the end of all processes", |host| {
            host.processes().is_empty()
        });
        let _reaped = host.smolvm(&["list"]).ok();
        assert_eq!(
            host.remains(),
            Vec::<String>::new(),
            "killed after {milliseconds} ms"
        );
    }
}

#[test]
fn killed_supervisor_takes_its_vmm_with_it_and_the_next_command_says_so() {
    let host = Host::new();
    host.start("box", &[]);
    kill(host.process("supervise"));
    host.wait_until("the VMM's end", |host| host.processes().is_empty());
    let (state, reason) = status(&host, "box");
    assert_eq!(
        (state.as_str(), reason.as_str()),
        ("error", "its supervisor died")
    );
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(host.sh("box", "echo back").ok().text(), "back\n");
}

/// Runs a command in `box` that goes on until something ends it.
fn endless_command(host: &Host) -> std::process::Child {
    let exec = ["exec", "--json", "box", "--", "sleep", "1000"];
    let client = host.command(&exec).spawn().expect("spawned");
    host.wait_until("the command", |host| {
        host.sh("box", "pgrep -fx 'sleep 1000'").code == 0
    });
    client
}

/// Waits for a client and returns its exit code and the reason its command ended for.
fn end_of(client: std::process::Child) -> (Option<i32>, String) {
    let output = client.wait_with_output().expect("collected");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let reason = document["data"]["reason"].as_str().expect("a reason");
    (output.status.code(), reason.to_owned())
}

#[test]
fn killed_vmm_ends_the_command_with_the_reason() {
    let host = Host::new();
    host.start("box", &[]);
    let client = endless_command(&host);
    kill(host.vmm());
    assert_eq!(end_of(client), (Some(125), "guest_died".to_owned()));
    let (state, reason) = status(&host, "box");
    assert_eq!(state, "error");
    assert!(reason.contains("signal: 9"), "{reason}");
}

#[test]
fn kernel_panic_is_reported_as_such_with_the_last_console_lines() {
    let host = Host::new();
    host.start("box", &[]);
    let outcome = host.sh(
        "box",
        "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
    );
    assert_eq!(outcome.code, 125);
    assert!(
        outcome.errors().contains("kernel panicked"),
        "{}",
        outcome.errors()
    );
    assert!(
        outcome.errors().contains("panicked: sysrq triggered crash"),
        "{}",
        outcome.errors()
    );
    let (state, reason) = status(&host, "box");
    assert_eq!(state, "error");
    assert!(reason.contains("panicked"), "{reason}");
}

#[test]
fn delete_during_a_command_ends_it_as_stopped() {
    let host = Host::new();
    host.start("box", &[]);
    let client = endless_command(&host);
    let _deleted = host.smolvm(&["delete", "box"]).ok();
    assert_eq!(end_of(client), (Some(125), "sandbox_stopped".to_owned()));
}

#[test]
fn killed_exec_client_takes_its_command_with_it() {
    let host = Host::new();
    host.start("box", &[]);
    let mut client = endless_command(&host);
    kill(client.id());
    wait(&mut client);
    host.wait_until("the command's end", |host| {
        host.sh("box", "pgrep -fx 'sleep 1000'").code == 1
    });
}

#[test]
fn supervisor_killed_at_any_moment_of_the_start_leaves_nothing() {
    let host = Host::new();
    for milliseconds in [0, 30, 200, 700, 1500] {
        let mut client = host
            .command(&["run", "--", "sleep", "1000"])
            .spawn()
            .expect("spawned");
        host.wait_until("a supervisor", has_supervisor);
        let until = std::time::Instant::now() + std::time::Duration::from_millis(milliseconds);
        // The moment itself is what varies here; there is no event to wait for.
        while std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        kill(host.process("supervise"));
        assert_eq!(wait(&mut client), 125, "killed after {milliseconds} ms");
        host.wait_until("the end of all processes", |host| {
            host.processes().is_empty()
        });
        let _reaped = host.smolvm(&["list"]).ok();
        assert_eq!(
            host.remains(),
            Vec::<String>::new(),
            "killed after {milliseconds} ms"
        );
    }
}

fn has_supervisor(host: &Host) -> bool {
    host.processes()
        .iter()
        .any(|(_, line)| line.contains("supervise"))
}
