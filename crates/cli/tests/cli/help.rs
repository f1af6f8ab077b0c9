//! Help, versions and completion scripts.

use insta::assert_snapshot;

use crate::home::Home;

#[test]
fn overview_lists_the_commands_and_hides_the_inner_ones() {
    let home = Home::new();
    let ended = home.run(&["--help"]);
    assert_eq!(ended.code, 0);
    assert_snapshot!("help", ended.stdout());
}

#[test]
fn help_of_each_command() {
    let home = Home::new();
    for command in [
        "run",
        "create",
        "start",
        "list",
        "info",
        "exec",
        "shell",
        "cp",
        "logs",
        "stop",
        "delete",
        "cleanup",
        "kernel",
        "setup",
        "doctor",
        "completion",
    ] {
        let ended = home.run(&[command, "--help"]);
        assert_eq!(ended.code, 0, "{command}");
        assert_snapshot!(format!("help_{command}"), ended.stdout());
    }
}

#[test]
fn version_is_the_package_s() {
    let home = Home::new();
    let expected = format!("smolvm {}\n", env!("CARGO_PKG_VERSION"));
    home.run(&["--version"]).said(&expected);
    home.run(&["-V"]).said(&expected);
}

#[test]
fn completion_scripts_name_the_commands() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let ended = home.run(&["completion", shell]);
        assert_eq!(ended.code, 0);
        assert!(ended.stdout().contains("doctor"), "{shell}");
    }
}

#[test]
fn program_without_arguments_shows_the_help_and_fails() {
    let ended = Home::new().run::<&str>(&[]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("Usage: smolvm"), "{}", ended.stderr);
}
