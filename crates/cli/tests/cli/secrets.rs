//! Secrets on the command line: where their values come from, and where they go.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::home::{Ended, Home};

const VALUE: &str = "sk-live-7f3a9c2e51";

/// Creates the sandbox `box` with a secret whose value is in the environment.
fn created(home: &Home) -> Ended {
    let create = [
        "--json",
        "create",
        "-n",
        "box",
        "--secret",
        "API_KEY@api.example.com",
    ];
    let output = home.command(&create).env("API_KEY", VALUE).output();
    Ended::from(output.expect("smolvm starts"))
}

#[test]
fn value_is_in_a_file_of_its_own_and_nowhere_else() {
    let home = Home::new();
    let ended = created(&home);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let info = home.run(&["--json", "info", "box"]);
    for told in [ended.stdout(), ended.stderr.as_str(), info.stdout()] {
        assert!(!told.contains(VALUE), "{told}");
    }
    let files = fs::read_dir(home.sandboxes().join("box")).expect("the sandbox's directory");
    let mut having: Vec<_> = files
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            let content = fs::read(path).expect("readable");
            String::from_utf8_lossy(&content).contains(VALUE)
        })
        .collect();
    let secrets = having.pop().expect("it is kept");
    assert_eq!(secrets.file_name().expect("a name"), "secrets.json");
    assert_eq!(having, Vec::<std::path::PathBuf>::new());
    let mode = secrets.metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    home.run(&["delete", "box"]);
}

#[test]
fn secret_without_a_value_says_where_it_is_taken_from() {
    let home = Home::new();
    let ended = home.run(&["create", "--secret", "API_KEY@api.example.com"]);
    assert_eq!(ended.code, 1);
    let reason = "secret API_KEY: there is no environment variable of this name";
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("not on its command line"),
        "{}",
        ended.stderr
    );
    assert_eq!(home.entries(), Vec::<String>::new());
}

#[test]
fn secret_and_rule_that_are_not_legal_are_named() {
    let home = Home::new();
    let refused = |arguments: [&str; 3], reason: &str| {
        let output = home.command(&arguments).env("API_KEY", VALUE).output();
        let ended = Ended::from(output.expect("smolvm starts"));
        assert_ne!(ended.code, 0);
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
        assert!(!ended.stderr.contains(VALUE), "{}", ended.stderr);
    };
    refused(["create", "--secret", "API_KEY"], "a secret is NAME@HOST");
    refused(["create", "--secret", "API_KEY@a b"], "host 'a b'");
    refused(
        ["create", "--secret", "API_KEY@*.com"],
        "could be sent to anybody",
    );
    refused(["create", "--http", "get a.example"], "column 1");
}
