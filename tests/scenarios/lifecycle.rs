//! Creating, stopping, starting again, deleting, by name and several at once.

use std::time::{Duration, SystemTime};

use smolvm_tests::{Host, hold_up, terminate};

#[test]
fn files_survive_stop_and_start() {
    let host = Host::new();
    host.start("box", &[]);
    let _written = host.sh("box", "echo kept > /root/note").ok();
    let _stopped = host.smolvm(&["stop", "box"]).ok();
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(host.sh("box", "cat /root/note").ok().text(), "kept\n");
}

#[test]
fn guest_has_its_name_its_size_and_a_clean_root() {
    let host = Host::new();
    host.start(
        "my-box",
        &["--memory", "384", "--cpus", "2", "--disk-size", "300"],
    );
    assert_eq!(
        host.sh("my-box", "hostname; nproc").ok().text(),
        "my-box\n2\n"
    );
    let memory = host
        .sh("my-box", "grep MemTotal /proc/meminfo | tr -dc 0-9")
        .ok()
        .text();
    let memory_kib: u32 = memory.parse().expect("a number");
    assert!(
        (300 * 1024..=384 * 1024).contains(&memory_kib),
        "{memory_kib} KiB"
    );
    let disk = host
        .sh("my-box", "df --output=size -m / | tail -1 | tr -dc 0-9")
        .ok()
        .text();
    let disk_mib: u32 = disk.parse().expect("a number");
    assert!((240..=300).contains(&disk_mib), "{disk_mib} MiB");
}

#[test]
fn guest_without_a_network_has_no_card() {
    let host = Host::new();
    host.start("cut-off", &["--net", "off"]);
    let network = host.sh("cut-off", "ls /sys/class/net").ok().text();
    assert_eq!(network, "lo\n");
}

#[test]
fn sandboxes_share_an_image_and_nothing_else() {
    let host = Host::new();
    std::thread::scope(|scope| {
        scope.spawn(|| host.start("one", &[]));
        scope.spawn(|| host.start("two", &[]));
    });
    let _changed = host
        .sh("one", "rm /etc/debian_version; touch /only-in-one")
        .ok();
    assert_eq!(
        host.sh("two", "cat /etc/debian_version >&2 && ls /only-in-one")
            .code,
        2
    );
    let listed = host.smolvm(&["list", "--json"]).ok().json();
    let names: Vec<_> = listed["data"]["vms"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|sandbox| sandbox["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["one", "two"]);
}

/// Asserts that the clock of `box` is the host's, but for what asking takes.
#[track_caller]
fn assert_same_time(host: &Host) {
    let tolerance = Duration::from_millis(500);
    let before = SystemTime::now() - tolerance;
    let guest = host.sh("box", "date +%s.%N").ok().text();
    let after = SystemTime::now() + tolerance;
    let guest: f64 = guest.trim().parse().expect("a number");
    let guest = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(guest);
    assert!(
        (before..=after).contains(&guest),
        "{guest:?}, between {before:?} and {after:?}"
    );
}

#[test]
fn guest_has_the_hosts_time_also_when_its_machine_was_held_up() {
    let host = Host::new();
    host.start("box", &[]);
    assert_same_time(&host);
    hold_up(host.vmm(), Duration::from_secs(3));
    assert_same_time(&host);
}

#[test]
fn guest_that_powers_itself_off_is_stopped_and_starts_again() {
    let host = Host::new();
    host.start("box", &[]);
    // The agent is PID 1; SIGTERM asks it for an orderly shutdown.
    let _ended = host.sh("box", "kill -TERM 1; sleep 1000");
    host.wait_until("the guest's end", |host| {
        host.smolvm(&["info", "box", "--json"]).json()["data"]["vm"]["status"] == "stopped"
    });
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(host.sh("box", "echo again").ok().text(), "again\n");
}

#[test]
fn kept_run_can_be_used_afterwards() {
    let host = Host::new();
    let _run = host
        .smolvm(&[
            "run",
            "--keep",
            "--name",
            "kept",
            "-c",
            "echo 1 > /root/one",
        ])
        .ok();
    assert_eq!(host.sh("kept", "cat /root/one").ok().text(), "1\n");
}

#[test]
fn console_of_a_stopped_sandbox_can_be_read() {
    let host = Host::new();
    host.start("box", &[]);
    let _said = host.sh("box", "echo from the guest > /dev/console").ok();
    let _stopped = host.smolvm(&["stop", "box"]).ok();
    let log = host.smolvm(&["logs", "box"]).ok().text();
    assert!(log.contains("from the guest"), "{log}");
}

#[test]
fn doctors_self_test_boots_a_guest() {
    let host = Host::new();
    let report = host
        .smolvm(&["doctor", "--self-test", "--json"])
        .ok()
        .json();
    assert_eq!(report["data"]["summary"]["failures"], 0, "{report:#}");
}

#[test]
fn host_that_shuts_down_ends_its_guests_in_order() {
    let host = Host::new();
    host.start("box", &[]);
    // Nothing of this is on the disk yet: the guest has to be asked to write it.
    let _written = host.sh("box", "echo kept > /root/note").ok();
    terminate(host.process("supervise"));
    host.wait_until("the guest's end", |host| host.processes().is_empty());
    let info = host.smolvm(&["info", "box", "--json"]).ok().json();
    assert_eq!(info["data"]["vm"]["status"], "stopped", "{info:#}");
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(host.sh("box", "cat /root/note").ok().text(), "kept\n");
}
