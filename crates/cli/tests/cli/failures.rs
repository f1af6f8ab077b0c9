//! Bad input: a reason in one line, a hint, the right exit code, and nothing left.

use crate::home::{Ended, Home};

#[track_caller]
fn refused(ended: &Ended, code: i32, reason: &str) {
    assert_eq!(ended.code, code, "{}", ended.stderr);
    assert_eq!(ended.stdout(), "");
    assert!(
        ended.stderr.starts_with("error: ") && ended.stderr.contains(reason),
        "{}",
        ended.stderr
    );
}

#[test]
fn sizes_out_of_range_name_the_range() {
    let home = Home::new();
    let memory = home.run(&["run", "--memory", "64", "true"]);
    refused(&memory, 2, "memory is 64 MiB; it must be 128 to 16384 MiB");
    let cpus = home.run(&["create", "--cpus", "0"]);
    refused(&cpus, 2, "cpus is 0 CPUs; it must be 1 to 32 CPUs");
    let disk = home.run(&["create", "--disk-size", "9T"]);
    refused(&disk, 2, "disk size is 9437184 MiB");
}

#[test]
fn malformed_name_says_the_rule() {
    let ended = Home::new().run(&["create", "--name", "../x"]);
    refused(&ended, 2, "use 1 to 64 of a-z, 0-9");
}

#[test]
fn taken_name_has_a_hint() {
    let home = Home::new();
    home.run(&["create", "-n", "box"]);
    let ended = home.run(&["create", "-n", "box"]);
    refused(&ended, 1, "sandbox 'box' already exists");
    assert!(ended.stderr.contains("hint: use it: smolvm start box"));
    let ended = home.run(&["run", "-n", "box", "true"]);
    refused(&ended, 125, "sandbox 'box' already exists");
    home.run(&["delete", "box"]);
}

#[test]
fn missing_sandbox_is_not_found_in_every_command() {
    let home = Home::new();
    for (arguments, code) in [
        (&["start", "ghost"][..], 1),
        (&["stop", "ghost"], 1),
        (&["delete", "ghost"], 1),
        (&["info", "ghost"], 1),
        (&["logs", "ghost"], 1),
        (&["cp", "ghost:/etc/hosts", "/tmp"], 1),
        (&["exec", "ghost", "true"], 125),
        (&["shell", "ghost"], 125),
    ] {
        refused(&home.run(arguments), code, "sandbox 'ghost' not found");
    }
}

#[test]
fn unknown_image_names_the_known_ones() {
    let home = Home::new();
    let ended = home.run(&["run", "--engine", "qemu", "--image", "nosuch", "true"]);
    refused(&ended, 125, "unknown image 'nosuch'");
    assert!(
        ended
            .stderr
            .contains("hint: there are these images: debian")
    );
    let ended = home.run(&["setup", "--image", "No Such"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
}

#[test]
fn engine_of_another_version_is_said_to_be_absent() {
    let home = Home::new();
    let flag = home.run(&["run", "--engine", "vz", "true"]);
    refused(&flag, 2, "this version has no engine \"vz\"");
    let variable = home
        .command(&["list"])
        .env("SMOLVM_BACKEND", "vz")
        .output()
        .expect("smolvm starts");
    refused(
        &variable.into(),
        1,
        "SMOLVM_BACKEND: this version has no engine",
    );
}

#[test]
fn engine_of_another_program_is_replaced_by_ours_and_that_is_said() {
    let home = Home::new();
    let listed = home
        .command(&["list", "--json"])
        .env("SMOLVM_BACKEND", "firecracker")
        .output()
        .expect("smolvm starts");
    assert!(listed.status.success());
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(said.contains("note: firecracker is not a part"), "{said}");
}

#[test]
fn variable_without_a_name_is_refused_before_anything_is_made() {
    let home = Home::new();
    refused(&home.run(&["run", "-e", "=x", "true"]), 125, "needs a name");
    assert_eq!(home.entries(), [""; 0]);
}

#[test]
fn data_directory_that_cannot_be_made_is_named() {
    let home = Home::new();
    let file = home.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let output = home
        .command(&["list"])
        .env("SMOLVM_DATA_DIR", file.join("data"))
        .output()
        .expect("smolvm starts");
    refused(&output.into(), 1, "Not a directory");
}

#[test]
fn copy_needs_one_side_in_a_sandbox() {
    let home = Home::new();
    refused(
        &home.run(&["cp", "/etc/hosts", "/tmp/x"]),
        1,
        "neither side is in a sandbox",
    );
    refused(
        &home.run(&["cp", "a:/x", "b:/x"]),
        1,
        "both sides are in a sandbox",
    );
}

#[test]
fn run_without_a_command_is_a_usage_error() {
    refused(&Home::new().run(&["run"]), 2, "required arguments");
}

#[test]
fn network_that_cannot_be_joined_says_why() {
    let home = Home::new();
    let named = home.run(&["create", "--network", "../team"]);
    refused(&named, 2, "invalid network name \"../team\"");
    let long = home.run(&["create", "--name", &"x".repeat(64), "--network", "team"]);
    refused(&long, 1, "a name has 63 characters at most");
    let allowed = home.run(&["create", "--allow", "from web"]);
    refused(
        &allowed,
        2,
        "column 7: members of its networks are allowed as such",
    );
}
