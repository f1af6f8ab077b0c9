//! The jail of a VMM: what a VMM that the guest has taken over can still do.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use smolvm_tests::{Host, binary};

/// Runs a program in a jail that may read the system's programs and `readable`, and write
/// `writable`.
fn jailed(program: &str, arguments: &[&str], readable: &[&Path], writable: &[&Path]) -> Output {
    let system = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/bin"].map(Path::new);
    let bytes = |text: &&str| json!({ "Unix": text.as_bytes() });
    let readable = [&system[..], readable].concat();
    let plan = json!({
        "program": program,
        "arguments": arguments.iter().map(bytes).collect::<Vec<Value>>(),
        "readable": readable,
        "writable": writable,
        "max_file_bytes": 4096,
        "supervisor_pid": std::process::id(),
    });
    Command::new(binary("smolvm"))
        .args(["jail", &plan.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("smolvm is built")
}

#[test]
fn only_the_files_it_was_given_can_be_read_and_written() {
    let directory = tempfile::tempdir().expect("directory");
    let (given, other) = (
        directory.path().join("given"),
        directory.path().join("other"),
    );
    fs::write(&given, "given").expect("written");
    fs::write(&other, "secret").expect("written");
    let cat = |file: &Path| jailed("/bin/cat", &[file.to_str().expect("UTF-8")], &[&given], &[]);
    assert_eq!(cat(&given).stdout, b"given");
    let refused = cat(&other);
    assert!(refused.stdout.is_empty(), "the jail leaks");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );

    let line = format!("echo changed > {}", given.display());
    let write = |writable: &[&Path]| jailed("/bin/sh", &["-c", &line], &[&given], writable);
    assert!(!write(&[]).status.success(), "written though only readable");
    assert_eq!(fs::read(&given).expect("there"), b"given");
    assert!(write(&[&given]).status.success());
    assert_eq!(fs::read(&given).expect("there").as_slice(), b"changed\n");
}

#[test]
fn no_file_grows_beyond_its_limit() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("written");
    let line = format!("head -c 10000 /usr/bin/env > {}", file.display());
    let outcome = jailed("/bin/sh", &["-c", &line], &[], &[&file]);
    assert!(!outcome.status.success(), "{outcome:?}");
    assert_eq!(fs::metadata(&file).expect("there").len(), 4096);
}

#[test]
fn running_vmm_has_no_new_privileges_a_filter_and_no_environment() {
    let host = Host::new();
    host.start("box", &[]);
    let vmm = host.vmm();
    let status = fs::read_to_string(format!("/proc/{vmm}/status")).expect("alive");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // 2 is filter mode (proc(5), `Seccomp`).
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert_eq!(
        fs::read(format!("/proc/{vmm}/environ")).expect("alive"),
        b""
    );
}
