//! Commands in guests: their input, output and exit codes.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use rustix::process::Signal;

use crate::home::{Home, code_of, end_of, signal};

#[test]
fn run_passes_output_and_success_on_and_leaves_nothing() {
    let home = Home::new();
    home.run(&["run", "--", "echo", "hello", "there"])
        .said("hello there\n");
    assert_eq!(home.entries(), [""; 0]);
}

#[test]
fn run_passes_the_exit_code_of_the_command_on() {
    let ended = Home::new().run(&["run", "false"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (1, ""));
}

#[test]
fn options_after_the_program_belong_to_it() {
    let home = Home::new();
    home.run(&["run", "echo", "--json", "-it"])
        .said("--json -it\n");
}

#[test]
fn bytes_that_are_not_text_pass_in_both_directions() {
    let home = Home::new();
    let not_text = b"\xff\xfe\x00\n";
    assert_eq!(
        home.run_with_input(&["run", "cat"], not_text).stdout,
        not_text
    );
    let argument = OsStr::from_bytes(b"\xff\xfe");
    let ended = home.run(&[OsStr::new("run"), OsStr::new("echo"), argument]);
    assert_eq!(ended.stdout, b"\xff\xfe\n");
}

#[test]
fn megabytes_pass_through_unchanged() {
    let home = Home::new();
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let ended = home.run_with_input(&["run", "cat"], &input);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout == input, "12 MB came back changed");
}

#[test]
fn timeout_is_exit_code_124_and_says_so() {
    let ended = Home::new().run(&["run", "--timeout", "100ms", "sleep", "60"]);
    assert_eq!(ended.code, 124);
    assert!(ended.stderr.contains("its time was up"), "{}", ended.stderr);
}

#[test]
fn missing_command_is_exit_code_127() {
    let ended = Home::new().run(&["run", "nothing-of-this-name"]);
    assert_eq!(ended.code, 127);
    assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
}

#[test]
fn interrupt_is_passed_on_and_the_sandbox_is_gone() {
    let home = Home::new();
    let child = home.start_cat(&["run"]);
    signal(&child, Signal::INT);
    assert_eq!(end_of(child).code, 128 + 2);
    assert_eq!(home.entries(), [""; 0]);
}

#[test]
fn termination_and_hangup_are_passed_on_and_the_sandbox_is_gone() {
    let home = Home::new();
    for (sent, number) in [(Signal::TERM, 15), (Signal::HUP, 1)] {
        let child = home.start_cat(&["run"]);
        signal(&child, sent);
        assert_eq!(end_of(child).code, 128 + number);
        assert_eq!(home.entries(), [""; 0]);
    }
}

#[test]
fn ignored_hangup_stays_ignored() {
    let home = Home::new();
    let program = home.command(&["run", "cat"]);
    let mut child = std::process::Command::new("/usr/bin/nohup")
        .arg(program.get_program())
        .args(program.get_args())
        .env_clear()
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("nohup starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    let mut exchange = |word: &[u8; 4]| {
        std::io::Write::write_all(&mut stdin, word).expect("smolvm takes input");
        let mut answer = [0; 4];
        stdout.read_exact(&mut answer).expect("smolvm answers");
        assert_eq!(&answer, word);
    };
    exchange(b"one\n");
    signal(&child, Signal::HUP);
    exchange(b"two\n");
    drop(stdin);
    assert_eq!(code_of(child.wait().expect("smolvm ends")), 0);
}

#[test]
fn output_that_nobody_reads_ends_the_command_quietly() {
    let home = Home::new();
    let mut child = home
        .command(&["run", "cat"])
        .stdin(Stdio::from(
            std::fs::File::open("/dev/zero").expect("/dev/zero"),
        ))
        .spawn()
        .expect("smolvm starts");
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0]).expect("smolvm writes");
    drop(stdout);
    let output = child.wait_with_output().expect("smolvm ends");
    assert_eq!(code_of(output.status), 128 + 13);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn keep_leaves_a_running_sandbox_and_says_its_name_on_stderr() {
    let home = Home::new();
    let ended = home.run(&["run", "--keep", "-n", "kept", "--", "echo", "hi"]);
    ended.said("hi\n");
    assert_eq!(ended.stderr, "sandbox kept is kept, running\n");
    home.run(&["exec", "kept", "--", "echo", "again"])
        .said("again\n");
    home.run(&["delete", "kept"]).said("kept deleted\n");
}

#[test]
fn timings_go_to_stderr() {
    let ended = Home::new().run(&["run", "--timings", "true"]);
    ended.said("");
    let words = ["preparation", "boot", "command", "engine"];
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), words.len(), "{}", ended.stderr);
    for (line, word) in lines.iter().zip(words) {
        assert!(line.starts_with(word), "{line}");
    }
}

#[test]
fn crash_of_the_machine_is_exit_code_125_and_named() {
    let ended = Home::new().run(&["run", "crash"]);
    assert_eq!(ended.code, 125);
    assert!(
        ended.stderr.contains("error: the guest died"),
        "{}",
        ended.stderr
    );
}
