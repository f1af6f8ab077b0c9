//! The life of kept sandboxes, from command to command.

use serde_json::json;

use crate::home::{Home, end_of, wait_for};

#[test]
fn sandbox_lives_from_create_to_delete() {
    let home = Home::new();
    home.run(&["create", "--name", "box"]).said("box\n");
    let refused = home.run(&["exec", "box", "true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("hint: start it: smolvm start box"));
    assert!(
        home.run(&["start", "box"])
            .stdout()
            .starts_with("box started in")
    );
    home.run(&["start", "box"]).said("box runs already\n");
    home.run(&["exec", "box", "echo", "in the box"])
        .said("in the box\n");
    assert_eq!(
        home.run_with_input(&["exec", "box", "cat"], b"in").stdout(),
        "in"
    );
    home.run(&["stop", "box"]).said("box is stopped\n");
    home.run(&["stop", "box"]).said("box is stopped\n");
    assert_eq!(home.run(&["start", "box"]).code, 0);
    home.run(&["rm", "box"]).said("box deleted\n");
}

#[test]
fn list_shows_running_sandboxes_and_all_on_request() {
    let home = Home::new();
    home.run(&["list"])
        .said("There are no sandboxes. Create one: smolvm create\n");
    home.run(&["create", "-n", "idle"]);
    home.run(&["create", "-n", "busy", "--start"]);
    let names = |arguments: &[&str]| -> Vec<String> {
        let data = home.data(arguments);
        let vms = data["vms"].as_array().expect("a list");
        vms.iter()
            .map(|vm| vm["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&["list"]), ["busy"]);
    assert_eq!(names(&["list", "--all"]), ["busy", "idle"]);
    assert_eq!(names(&["ls", "--status", "created"]), ["idle"]);
    home.run(&["delete", "--all"]);
}

#[test]
fn create_with_a_time_to_come_up_starts_it() {
    let home = Home::new();
    let create = [
        "create",
        "-n",
        "box",
        "--os",
        "debian",
        "--boot-timeout",
        "60",
    ];
    let data = home.data(&create);
    assert_eq!(data["vm"]["status"], "running");
    assert_eq!(data["next"]["ssh_command"], "smolvm shell box");
    home.run(&["delete", "box"]);
}

#[test]
fn cleanup_deletes_by_the_beginning_of_a_name_when_told_to() {
    let home = Home::new();
    home.run(&["create", "-n", "vm-one", "--start"]);
    home.run(&["create", "-n", "vm-two"]);
    home.run(&["create", "-n", "kept"]);
    let planned = home.data(&["cleanup", "--prefix", "vm-", "--dry-run"]);
    assert_eq!(planned["targets"], json!(["vm-one", "vm-two"]));
    assert_eq!(planned["deleted"], json!([]));
    let done = home.data(&["cleanup", "--prefix", "vm-"]);
    assert_eq!(done["deleted"], json!(["vm-one", "vm-two"]));
    home.run(&["cleanup"]).said("Nothing to clean up.\n");
    home.run(&["cleanup", "--all"]).said("removed kept\n");
    home.run(&["list", "--all"])
        .said("There are no sandboxes. Create one: smolvm create\n");
}

#[test]
fn delete_takes_several_names_and_does_not_mind_missing_ones_when_forced() {
    let home = Home::new();
    home.run(&["create", "-n", "one"]);
    home.run(&["create", "-n", "two", "--start"]);
    home.run(&["delete", "one", "two"])
        .said("one deleted\ntwo deleted\n");
    assert_eq!(home.run(&["delete", "one"]).code, 1);
    assert_eq!(home.run(&["delete", "--force", "one"]).code, 0);
}

#[test]
fn verbs_work_below_sandbox_too() {
    let home = Home::new();
    home.run(&["sandbox", "create", "-n", "box"]).said("box\n");
    let ended = home.run(&["sandbox", "list", "--all", "--json"]);
    assert_eq!(ended.document()["command"], "sandbox.list");
    home.run(&["sandbox", "delete", "box"])
        .said("box deleted\n");
}

#[test]
fn command_under_way_learns_that_its_sandbox_is_stopped() {
    let home = Home::new();
    home.run(&["create", "-n", "box", "--start"]);
    let child = home.start_cat(&["exec", "box"]);
    home.run(&["stop", "box"]).said("box is stopped\n");
    let ended = end_of(child);
    assert_eq!(ended.code, 125);
    assert!(
        ended.stderr.contains("the sandbox was stopped"),
        "{}",
        ended.stderr
    );
    home.run(&["delete", "box"]);
}

#[test]
fn created_sandbox_runs_on_when_its_creator_has_ended() {
    let home = Home::new();
    home.run(&["create", "-n", "box", "--start"]);
    // The creator's output is closed, so nothing that runs on holds it open.
    let running = wait_for("the sandbox to be listed", || {
        home.data(&["list"])["vms"].get(0).cloned()
    });
    assert_eq!(running["status"], "running");
    home.run(&["delete", "box"]);
}
