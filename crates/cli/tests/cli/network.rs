//! What a sandbox may reach, as it is asked for and shown.

use std::fs;

use crate::home::Home;

const POLICY: &str = "restricted\n  allow example.com:443\n  deny *.example.org\n";

#[test]
fn policy_of_a_file_is_shown_as_the_file_has_it() {
    let home = Home::new();
    let file = home.path().join("policy");
    fs::write(&file, format!("# what it needs\n\n{POLICY}")).expect("write");
    let file = file.to_str().expect("text");
    home.run(&[
        "create",
        "-n",
        "box",
        "--policy",
        file,
        "--deny",
        "192.0.2.1",
    ])
    .said("box\n");
    home.run(&["network", "show", "box"])
        .said(&format!("{POLICY}  deny 192.0.2.1\n"));
    home.run(&["network", "set", "box", "open"]).said("open\n");
    home.run(&["network", "set", "box", "--policy", file])
        .said(POLICY);
    home.run(&["delete", "box"]);
}

#[test]
fn policy_that_is_none_is_refused_by_file_line_and_column() {
    let home = Home::new();
    let file = home.path().join("policy");
    fs::write(&file, "open\nallow example.com:0\n").expect("write");
    let name = file.to_str().expect("text");
    let ended = home.run(&["create", "--policy", name]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    for part in [name, "line 2: rule \"allow example.com:0\", column 19"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    let ended = home.run(&["create", "--policy", "/nowhere"]);
    assert!(ended.stderr.contains("No such file"), "{}", ended.stderr);
    fs::write(&file, vec![b'#'; 1024 * 1024 + 1]).expect("write");
    let ended = home.run(&["create", "--policy", name]);
    assert!(
        ended.stderr.contains("longer than 1048576 bytes"),
        "{}",
        ended.stderr
    );
    home.run(&["list", "--all"])
        .said("There are no sandboxes. Create one: smolvm create\n");
}
