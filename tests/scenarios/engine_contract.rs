//! What every engine does alike: the same checks over each.

use smolvm_tests::Host;

/// Runs the whole contract over one engine. A sandbox is used for several checks, because a boot
/// costs more than all of them.
fn check(engine: &str) {
    let host = Host::new();
    let create = ["create", "--name", "box", "--engine", engine];
    let _created = host.smolvm(&create).ok();
    assert_eq!(state(&host), "created");
    assert_eq!(
        host.smolvm(&["exec", "box", "--", "true"]).code,
        125,
        "not started yet"
    );

    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(state(&host), "running");
    check_counts(&host, engine);
    assert_eq!(
        host.smolvm(&["exec", "box", "--", "echo", "a", "b c"])
            .ok()
            .text(),
        "a b c\n"
    );
    assert_eq!(host.smolvm(&["exec", "box", "--", "false"]).code, 1);
    assert_eq!(
        host.smolvm(&["exec", "box", "--", "no-such-command"]).code,
        127
    );
    let echoed = host.smolvm_with_input(&["exec", "-i", "box", "--", "cat"], b"in\0\xff");
    assert_eq!(echoed.ok().stdout, b"in\0\xff");
    let limited = host.smolvm(&["exec", "--timeout", "0.3", "box", "--", "sleep", "1000"]);
    assert_eq!(limited.code, 124);
    assert_eq!(
        host.smolvm(&["exec", "box", "--", "true"]).code,
        0,
        "usable after a timeout"
    );

    let _stopped = host.smolvm(&["stop", "box"]).ok();
    assert_eq!(state(&host), "stopped");
    assert!(host.processes().is_empty(), "{:?}", host.processes());
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(
        host.smolvm(&["exec", "box", "--", "true"]).code,
        0,
        "usable after a restart"
    );

    let _deleted = host.smolvm(&["delete", "box"]).ok();
    assert_eq!(host.remains(), Vec::<String>::new());
    assert_eq!(host.smolvm(&["info", "box"]).code, 1, "gone");
}

/// Checks what a machine that has booted says of its work: of the engines, `kvm` counts it.
fn check_counts(host: &Host, engine: &str) {
    let info = host.smolvm(&["info", "box", "--json"]).ok().json();
    let machine = &info["data"]["vm"]["machine"];
    let has_process = engine != "fake";
    assert_eq!(machine["resident_bytes"].is_u64(), has_process, "{machine}");
    if engine != "kvm" {
        assert!(machine["stats"].is_null(), "{machine}");
        return;
    }
    let stats = &machine["stats"];
    for count in [
        &stats["port_exits"],
        &stats["mmio_exits"],
        &stats["disks"]["to_guest"]["bytes"],
        &stats["disks"]["from_guest"]["count"],
    ] {
        assert!(count.as_u64().is_some_and(|count| count > 0), "{machine}");
    }
    let text = host.smolvm(&["info", "box"]).ok().text();
    assert!(text.contains("disk traffic"), "{text}");
}

fn state(host: &Host) -> String {
    let info = host.smolvm(&["info", "box", "--json"]).ok().json();
    info["data"]["vm"]["status"]
        .as_str()
        .expect("a status")
        .to_owned()
}

#[test]
fn fake_engine_keeps_the_contract() {
    check("fake");
}

#[test]
fn qemu_engine_keeps_the_contract() {
    check("qemu");
}

#[test]
#[ignore = "needs KVM: make test-kvm"]
fn kvm_engine_keeps_the_contract() {
    check("kvm");
}
