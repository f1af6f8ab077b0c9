//! `kill -9` of each process that a sandbox has: what is left, and who cleans it up.

use rustix::process::Signal;

use crate::home::{Home, kill, signal, wait_for};

/// Returns the process ID of the supervisor of the only sandbox that runs.
fn supervisor(home: &Home) -> i32 {
    let name = wait_for("a running sandbox", || {
        let data = home.data(&["list"]);
        data["vms"][0]["name"].as_str().map(str::to_owned)
    });
    let info = home.data(&["info", &name]);
    let pid = info["vm"]["machine"]["supervisor_pid"].as_i64();
    i32::try_from(pid.expect("a process ID")).expect("a small one")
}

#[test]
fn death_of_the_client_takes_its_sandbox_along() {
    let home = Home::new();
    let mut child = home.start_cat(&["run"]);
    signal(&child, Signal::KILL);
    child.wait().expect("killed");
    home.wait_until_quiet();
    assert_eq!(home.entries(), [""; 0]);
}

#[test]
fn death_of_client_and_supervisor_is_reaped_by_the_next_command() {
    let home = Home::new();
    let mut child = home.start_cat(&["run", "-n", "gone"]);
    let supervisor = supervisor(&home);
    kill(supervisor, Signal::KILL);
    signal(&child, Signal::KILL);
    child.wait().expect("killed");
    home.wait_until_quiet();
    let planned = home.data(&["cleanup", "--dry-run"]);
    assert_eq!(planned["targets"][0], "gone");
    assert_eq!(home.entries(), ["gone"], "a dry run removes nothing");
    let done = home.data(&["cleanup"]);
    assert_eq!(done["deleted"][0], "gone");
}

#[test]
fn death_of_a_kept_sandbox_s_supervisor_is_noticed_and_can_be_started_again() {
    let home = Home::new();
    home.run(&["create", "-n", "box", "--start"]);
    kill(supervisor(&home), Signal::KILL);
    home.wait_until_quiet();
    let info = home.data(&["info", "box"]);
    assert_eq!(info["vm"]["status"], "error");
    assert_eq!(info["vm"]["reason"], "its supervisor died");
    assert_eq!(home.run(&["start", "box"]).code, 0);
    home.run(&["exec", "box", "true"]).said("");
    home.run(&["delete", "box"]).said("box deleted\n");
}

#[test]
fn interrupt_before_the_command_runs_leaves_nothing() {
    let home = Home::new();
    // Whenever it arrives, before the first sandbox is made or after the last is gone.
    for _ in 0..8 {
        let child = home
            .command(&["run", "sleep"])
            .spawn()
            .expect("smolvm starts");
        wait_for("the sandbox to be made", || {
            (!home.entries().is_empty()).then_some(())
        });
        signal(&child, Signal::TERM);
        let output = child.wait_with_output().expect("smolvm ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(crate::home::code_of(output.status), 128 + 15, "{stderr}");
        assert_eq!(home.entries(), [""; 0]);
    }
}

#[test]
fn remains_of_an_interrupted_creation_are_reaped() {
    let home = Home::new();
    home.run(&["list"]);
    std::fs::create_dir(home.sandboxes().join(".new-left")).expect("remains");
    home.run(&["list"]);
    assert_eq!(home.entries(), [""; 0]);
}
