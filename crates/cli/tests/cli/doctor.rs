//! `doctor` on hosts where things are missing.

use serde_json::Value;

use crate::home::Home;

fn status_of<'a>(document: &'a Value, name: &str) -> &'a Value {
    let checks = document["data"]["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == name);
    &check.unwrap_or_else(|| panic!("no check {name}: {document:#}"))["status"]
}

#[test]
fn host_without_anything_gets_a_result_and_a_fix_for_each_check() {
    let home = Home::new();
    let output = home
        .command(&["--json", "doctor"])
        .env("PATH", "/nonexistent")
        .env("SMOLVM_VMM", "/nonexistent/smolvm-vmm")
        .env("SMOLVM_AGENT", "/nonexistent/smolvm-agent")
        .env("SMOLVM_BACKEND", "auto")
        .output()
        .expect("smolvm starts");
    let ended = crate::home::Ended::from(output);
    assert_eq!(ended.code, 1);
    let document = ended.document();
    for name in ["qemu", "kvm", "engine", "smolvm-vmm", "smolvm-agent"] {
        assert_eq!(*status_of(&document, name), "fail", "{name}");
    }
    assert_eq!(*status_of(&document, "network"), "pass");
    assert_eq!(document["data"]["backend_requested"], "auto");
    assert_eq!(document["data"]["backend_resolved"], "qemu");
    assert_eq!(document["data"]["summary"]["ok"], false);
    for check in document["data"]["checks"].as_array().expect("a list") {
        let is_well = check["status"] == "pass";
        assert_eq!(check["fix"].is_null(), is_well, "{check:#}");
    }
    assert!(!home.sandboxes().exists(), "a doctor changes nothing");
}

#[test]
fn agent_that_is_linked_dynamically_is_told_from_a_missing_one() {
    let home = Home::new();
    let output = home
        .command(&["--json", "doctor"])
        .env("SMOLVM_AGENT", env!("CARGO_BIN_EXE_smolvm"))
        .output()
        .expect("smolvm starts");
    let document = crate::home::Ended::from(output).document();
    let checks = document["data"]["checks"].as_array().expect("a list");
    let agent = checks.iter().find(|check| check["name"] == "smolvm-agent");
    let detail = agent.expect("a check")["detail"].as_str().expect("text");
    assert!(detail.contains("is not statically linked"), "{detail}");
}

#[test]
fn data_directory_open_to_others_fails_with_the_command_that_closes_it() {
    use std::os::unix::fs::PermissionsExt as _;

    let home = Home::new();
    home.run(&["list"]);
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(home.sandboxes(), open).expect("chmod");
    let document = home.run(&["--json", "doctor"]).document();
    assert_eq!(*status_of(&document, "data"), "fail");
}

#[test]
fn self_test_runs_a_command_and_leaves_nothing() {
    let home = Home::new();
    let document = home.run(&["--json", "doctor", "--self-test"]).document();
    assert_eq!(*status_of(&document, "self-test"), "pass");
    assert_eq!(home.entries(), [""; 0]);
}
