//! Runs the `smolvm-vmm` binary as the sandbox library does, on whatever KVM this host has.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use smolvm_protocol::probe::{PROBE_DEADLINE_MS, PROBE_VERSION, ProbeReport};

/// Largest difference of two measurements of the counter's frequency, in parts per million.
const MAX_TSC_SPREAD_PPM: u64 = 100;

fn smolvm_vmm() -> Command {
    Command::new(env!("CARGO_BIN_EXE_smolvm-vmm"))
}

/// Reads the one line of a report, or kills the probe when its time is over.
fn report_within(deadline: Duration, mut probe: Child) -> Option<ProbeReport> {
    let stdout = probe.stdout.take().expect("standard output is piped");
    let (sender, receiver) = mpsc::sync_channel(1);
    let reader = thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the probe prints text");
        sender.send(line)
    });
    let line = receiver.recv_timeout(deadline);
    probe
        .kill()
        .expect("the probe is a child that nobody has waited for");
    probe.wait().expect("the probe can be waited for");
    reader.join().expect("the reader does not panic").ok();
    serde_json::from_str(&line.ok()?).ok()
}

fn spawn_probe() -> Child {
    smolvm_vmm()
        .arg("probe")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built")
}

#[test]
fn probe_prints_its_report_in_time_whatever_kvm_does() {
    let deadline = Duration::from_millis(PROBE_DEADLINE_MS);
    let report = report_within(deadline, spawn_probe()).expect("a report within the deadline");
    assert_eq!(report.version, PROBE_VERSION);
}

#[test]
fn probe_ends_by_itself() {
    let start = Instant::now();
    let mut probe = spawn_probe();
    let mut report = Vec::new();
    let mut stdout = probe.stdout.take().expect("standard output is piped");
    stdout
        .read_to_end(&mut report)
        .expect("the output can be read");
    assert!(probe.wait().expect("the probe can be waited for").success());
    assert!(start.elapsed() < Duration::from_millis(PROBE_DEADLINE_MS));
    assert_eq!(report.last(), Some(&b'\n'));
}

#[test]
fn tsc_frequency_is_the_same_in_every_report() {
    let deadline = Duration::from_millis(PROBE_DEADLINE_MS);
    let khz = [spawn_probe(), spawn_probe()].map(|probe| {
        let report = report_within(deadline, probe).expect("a report within the deadline");
        report.tsc.expect("this processor has a steady counter").khz
    });
    let spread_ppm = khz[0].abs_diff(khz[1]) * 1_000_000 / khz[0];
    assert!(spread_ppm <= MAX_TSC_SPREAD_PPM, "measured {khz:?} kHz");
}

#[test]
fn unknown_command_is_refused_with_the_usage() {
    let Output {
        status,
        stdout,
        stderr,
    } = smolvm_vmm()
        .arg("prob")
        .output()
        .expect("the binary was built");
    assert_eq!(status.code(), Some(2));
    assert!(stdout.is_empty());
    assert!(String::from_utf8_lossy(&stderr).contains("usage: smolvm-vmm probe"));
}
