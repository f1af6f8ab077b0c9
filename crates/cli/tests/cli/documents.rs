//! JSON documents: exactly one on standard output, with the envelope and its keys.

use insta::{Settings, assert_snapshot};

use crate::home::{Ended, Home};

/// Replaces what differs from run to run.
fn filtered(home: &Home, assert: impl FnOnce()) {
    let mut settings = Settings::clone_current();
    settings.add_filter(&regex_of(home), "[HOME]");
    settings.add_filter(r#""vm-[0-9a-f]{8}""#, "\"[NAME]\"");
    settings.add_filter(r#"("[a-z_]+_ms"): \d+"#, "$1: \"[TIME]\"");
    settings.add_filter(r#"("supervisor_pid"): \d+"#, "$1: \"[PID]\"");
    settings.add_filter(r#"("disk_used_bytes"): \d+"#, "$1: \"[BYTES]\"");
    settings.bind(assert);
}

fn regex_of(home: &Home) -> String {
    home.path().display().to_string().replace('.', r"\.")
}

#[track_caller]
fn document_of(ended: &Ended) -> &str {
    // Exactly one document: parsing the whole of it fails on anything more.
    ended.document();
    ended.stdout()
}

#[test]
fn run_carries_output_reason_and_timings() {
    let home = Home::new();
    let ended = home.run(&["--json", "run", "--", "echo", "hi"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    filtered(&home, || assert_snapshot!("run", document_of(&ended)));
}

#[test]
fn run_that_fails_carries_the_code_of_the_command() {
    let home = Home::new();
    let ended = home.run(&["--json", "run", "false"]);
    assert_eq!(ended.code, 1);
    let document = ended.document();
    assert_eq!(document["ok"], false);
    assert_eq!(document["exit_code"], 1);
    assert_eq!(document["data"]["exit_code"], 1);
    assert!(document["error"].is_null());
}

#[test]
fn run_that_times_out_carries_data_and_error() {
    let home = Home::new();
    let ended = home.run(&["--json", "run", "--timeout", "0.1", "sleep"]);
    assert_eq!(ended.code, 124);
    let document = ended.document();
    assert_eq!(document["data"]["reason"], "timed_out");
    assert_eq!(document["error"]["code"], "timed_out");
    assert_eq!(document["error"]["details"]["kind"], "timeout");
}

#[test]
fn output_that_is_not_text_is_replaced_and_flagged() {
    let home = Home::new();
    let ended = home.run_with_input(&["--json", "run", "cat"], b"a\xffb");
    let document = ended.document();
    assert_eq!(document["data"]["stdout"], "a\u{fffd}b");
    assert_eq!(document["data"]["stdout_lossy"], true);
    assert_eq!(document["data"]["stdout_truncated"], false);
}

#[test]
fn error_has_the_keys_of_both_generations() {
    let home = Home::new();
    let ended = home.run(&["--json", "start", "ghost"]);
    assert_eq!(ended.code, 1);
    filtered(&home, || assert_snapshot!("error", document_of(&ended)));
}

#[test]
fn create_list_info_and_delete_describe_the_sandbox() {
    let home = Home::new();
    let created = home.run(&["--json", "create", "-n", "box"]);
    filtered(&home, || assert_snapshot!("create", document_of(&created)));
    home.run(&["start", "box"]);
    let listed = home.run(&["--json", "list"]);
    filtered(&home, || assert_snapshot!("list", document_of(&listed)));
    let described = home.run(&["--json", "info", "box"]);
    filtered(&home, || assert_snapshot!("info", document_of(&described)));
    let deleted = home.run(&["--json", "delete", "box"]);
    filtered(&home, || assert_snapshot!("delete", document_of(&deleted)));
}

#[test]
fn networks_are_shown_with_all_their_members() {
    let home = Home::new();
    home.run(&[
        "create",
        "-n",
        "db",
        "--network",
        "team",
        "--deny",
        "from web:5432",
    ]);
    home.run(&[
        "create",
        "-n",
        "web",
        "--network",
        "lab",
        "--network",
        "team",
    ]);
    home.run(&["create", "-n", "box"]);
    let shown = home.run(&["--json", "network", "show", "db"]);
    assert_snapshot!("network_show", document_of(&shown));
    let for_people = home.run(&["network", "show", "web"]);
    assert_eq!(
        for_people.stdout(),
        "open\n# network lab: web\n# network team: db, web\n"
    );
    home.run(&["delete", "--all"]);
}

#[test]
fn tables_for_people_are_aligned() {
    let home = Home::new();
    home.run(&["create", "-n", "a-box-with-a-long-name"]);
    home.run(&["create", "-n", "box", "--memory", "1G"]);
    let listed = home.run(&["list", "--all"]);
    let described = home.run(&["info", "box"]);
    let mut settings = Settings::clone_current();
    settings.add_filter(&regex_of(&home), "[HOME]");
    settings.add_filter(r"\d+ seconds? ago", "[AGE]");
    settings.add_filter(r"\d+\.\d KiB", "[SIZE]");
    settings.bind(|| {
        assert_snapshot!("list_for_people", listed.stdout());
        assert_snapshot!("info_for_people", described.stdout());
    });
    home.run(&["delete", "--all"]);
}
