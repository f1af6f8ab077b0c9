//! Running commands: what goes in, what comes out, how they end.

use smolvm_tests::Host;

#[test]
fn ephemeral_run_prints_the_commands_output_and_leaves_nothing() {
    let host = Host::new();
    let outcome = host
        .smolvm(&["run", "-c", "uname -s && python3 --version"])
        .ok();
    let text = outcome.text();
    assert!(text.starts_with("Linux\nPython 3."), "{text}");
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[test]
fn exit_codes_follow_the_shells_conventions() {
    let host = Host::new();
    host.start("box", &[]);
    assert_eq!(host.sh("box", "exit 7").code, 7);
    assert_eq!(host.sh("box", "kill -TERM $$").code, 128 + 15);
    assert_eq!(
        host.smolvm(&["exec", "box", "--", "/no/such/program"]).code,
        127
    );
    assert_eq!(host.smolvm(&["exec", "box", "--", "/etc/passwd"]).code, 126);
    let nowhere = host.smolvm(&["exec", "-w", "/no/such/directory", "box", "--", "true"]);
    assert_eq!(nowhere.code, 125);
    assert!(
        nowhere.errors().contains("/no/such/directory"),
        "{}",
        nowhere.errors()
    );
    let nobody = host.smolvm(&["exec", "-u", "no-such-user", "box", "--", "true"]);
    assert_eq!(nobody.code, 125);
    assert!(
        nobody.errors().contains("no-such-user"),
        "{}",
        nobody.errors()
    );
}

#[test]
fn environment_directory_user_and_both_outputs_are_as_asked() {
    let host = Host::new();
    host.start("box", &[]);
    let line = "printf '%s|%s|%s|' \"$KEY\" \"$PWD\" \"$(id -un)\"; echo oops >&2";
    let arguments = [
        "exec",
        "-e",
        "KEY=a b=c",
        "-w",
        "/tmp",
        "-u",
        "nobody",
        "box",
        "--",
        "sh",
        "-c",
        line,
    ];
    let outcome = host.smolvm(&arguments).ok();
    assert_eq!(outcome.text(), "a b=c|/tmp|nobody|");
    assert_eq!(outcome.errors(), "oops\n");
}

#[test]
fn bytes_that_are_no_text_pass_unchanged() {
    let host = Host::new();
    host.start("box", &[]);
    let every_byte: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let echoed = host
        .smolvm_with_input(&["exec", "-i", "box", "--", "cat"], &every_byte)
        .ok();
    assert!(
        echoed.stdout == every_byte,
        "{} bytes came back",
        echoed.stdout.len()
    );
}

#[test]
fn ten_megabytes_of_error_output_arrive_whole() {
    let host = Host::new();
    host.start("box", &[]);
    let outcome = host
        .sh("box", "head -c 10000000 /dev/zero >&2; echo done")
        .ok();
    assert_eq!(outcome.stderr.len(), 10_000_000);
    assert_eq!(outcome.text(), "done\n");
}

#[test]
fn timeout_keeps_the_partial_output_and_removes_daemonised_children() {
    let host = Host::new();
    host.start("box", &[]);
    let line = "echo begun; setsid sh -c 'exec sleep 4242' & wait; sleep 4242";
    let arguments = [
        "exec",
        "--timeout",
        "2",
        "--json",
        "box",
        "--",
        "sh",
        "-c",
        line,
    ];
    let outcome = host.smolvm(&arguments);
    assert_eq!(outcome.code, 124, "{}", outcome.errors());
    let data = outcome.json()["data"].clone();
    assert_eq!(data["reason"], "timed_out");
    assert_eq!(data["stdout"], "begun\n");
    let left = host.sh("box", "pgrep -fx 'sleep 4242'");
    assert_eq!((left.code, left.text().as_str()), (1, ""), "still there");
}

#[test]
fn daemon_of_a_command_that_ended_goes_on() {
    let host = Host::new();
    host.start("box", &[]);
    let started = host
        .sh(
            "box",
            "setsid sh -c 'echo up; exec sleep 4343' & echo started",
        )
        .ok();
    assert!(started.text().contains("started"), "{}", started.text());
    assert_eq!(host.sh("box", "pgrep -fx 'sleep 4343'").code, 0);
}

#[test]
fn out_of_memory_is_reported_as_such_and_the_sandbox_answers_on() {
    let host = Host::new();
    host.start("box", &["--memory", "256"]);
    let hog = "x = []\nwhile True: x.append(b'x' * (64 << 20))";
    let outcome = host.smolvm(&["exec", "--json", "box", "--", "python3", "-c", hog]);
    assert_eq!(
        outcome.json()["data"]["reason"],
        "out_of_memory",
        "{}",
        outcome.text()
    );
    assert_eq!(outcome.code, 137);
    assert_eq!(host.sh("box", "echo alive").ok().text(), "alive\n");
}

#[test]
fn guest_that_stands_still_for_want_of_memory_loses_what_uses_most() {
    // Keeps its own pages in memory, and so few others that a program which is started is read from
    // the disk for ever: the kernel alone lets that go on.
    const HOG: &str = r#"
import ctypes, subprocess
def for_programs():
    kib = {line.split(":")[0]: int(line.split()[1]) for line in open("/proc/meminfo")}
    return kib["MemFree"] + kib["Active(file)"] + kib["Inactive(file)"]
ctypes.CDLL(None).mlockall(1)
held = []
while for_programs() > 4 << 10:
    held.append(b"x" * (256 << 10))
loop = ["sh", "-c", "while :; do perl -e 1; done"]
subprocess.run(loop, timeout=60)
"#;

    let host = Host::new();
    host.start("box", &["--memory", "256"]);
    let outcome = host.smolvm(&["exec", "--json", "box", "--", "python3", "-c", HOG]);
    assert_eq!(
        outcome.json()["data"]["reason"],
        "out_of_memory",
        "{}",
        outcome.text()
    );
    let console = host.smolvm(&["logs", "box"]).ok().text();
    assert!(console.contains("Manual OOM execution"), "{console}");
    assert_eq!(host.sh("box", "echo alive").ok().text(), "alive\n");
}

#[test]
fn gibibyte_of_output_grows_neither_agent_nor_supervisor() {
    const LIMIT_KIB: u64 = 8 * 1024;

    let host = Host::new();
    host.start("box", &[]);
    let supervisor = host.process("supervise");
    let agent = || host.sh("box", "grep VmRSS /proc/1/status").ok().text();
    let before = (kib(&agent()), supervisor_rss_kib(supervisor));
    let outcome = host.sh("box", "head -c 1073741824 /dev/zero").ok();
    assert_eq!(outcome.stdout.len(), 1 << 30);
    let after = (kib(&agent()), supervisor_rss_kib(supervisor));
    assert!(
        after.0 < before.0 + LIMIT_KIB,
        "agent: {} -> {} KiB",
        before.0,
        after.0
    );
    assert!(
        after.1 < before.1 + LIMIT_KIB,
        "supervisor: {} -> {} KiB",
        before.1,
        after.1
    );
}

fn supervisor_rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    kib(status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .expect("VmRSS"))
}

/// Returns the number of a line of `/proc/PID/status`, in KiB (proc(5)).
fn kib(line: &str) -> u64 {
    let number = line.split_whitespace().find_map(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no number in {line:?}"))
}

#[test]
fn fifty_commands_at_once_do_not_mix_their_output() {
    let host = Host::new();
    host.start("box", &[]);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let host = &host;
        let running: Vec<_> = (0..50)
            .map(|n| scope.spawn(move || (n, host.sh("box", &format!("echo {n}; exit {n}")))))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    for (n, outcome) in outcomes {
        assert_eq!(
            (outcome.code, outcome.text()),
            (n, format!("{n}\n")),
            "{}",
            outcome.errors()
        );
    }
}
