//! The jail of a VMM: what a VMM that the guest has taken over can still do.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use smolvm_tests::{Host, binary, kill, wait};

/// Runs a program in a jail that may read the system's programs and `readable`, and write
/// `writable`.
fn jailed(program: &str, arguments: &[&str], readable: &[&Path], writable: &[&Path]) -> Output {
    jailed_by(&[], program, arguments, readable, writable)
}

/// The same with `launcher` starting the jail.
fn jailed_by(
    launcher: &[&str],
    program: &str,
    arguments: &[&str],
    readable: &[&Path],
    writable: &[&Path],
) -> Output {
    let system = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/bin"].map(Path::new);
    let bytes = |text: &&str| json!({ "Unix": text.as_bytes() });
    let readable = [&system[..], readable].concat();
    let arguments: Vec<Value> = arguments.iter().map(bytes).collect();
    let plan = json!({
        "program": { "path": program, "arguments": arguments },
        "readable": readable,
        "writable": writable,
        "max_file_bytes": 4096,
        "supervisor_pid": std::process::id(),
    });
    jail(launcher, &[], &plan)
}

fn jail(launcher: &[&str], options: &[&str], plan: &Value) -> Output {
    let vmm = binary("smolvm-vmm");
    let mut words = launcher.iter().map(OsStr::new).collect::<Vec<_>>();
    words.extend([vmm.as_os_str(), OsStr::new("jail")]);
    words.extend(options.iter().map(OsStr::new));
    Command::new(words[0])
        .args(&words[1..])
        .stdin(file_with(plan))
        .output()
        .expect("smolvm-vmm is built")
}

/// Returns a file with the plan of a jail, to be read from its beginning.
fn file_with(plan: &Value) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    write!(file, "{plan}").expect("written");
    file.rewind().expect("a file");
    file
}

/// Starts a command as a user who is not root.
const AS_NOBODY: &[&str] = &["unshare", "--user", "--map-user=1000", "--map-group=1000"];

/// Names of namespaces, as files of proc(5) below `ns`.
const NAMESPACES: [&str; 5] = ["net", "ipc", "uts", "mnt", "user"];

#[test]
fn vmm_has_namespaces_of_its_own_with_nothing_in_them() {
    for launcher in [&[], AS_NOBODY] {
        let allowed = jail(launcher, &["--namespaces"], &Value::Null);
        let allowed: Value = serde_json::from_slice(&allowed.stdout).unwrap_or_default();
        if allowed["has_root"] != true {
            println!("SKIPPED vmm_has_namespaces_of_its_own_with_nothing_in_them: {allowed}");
            continue;
        }
        let script = "for name in net ipc uts mnt user; do readlink /proc/self/ns/$name; done; \
                      cat /proc/self/net/dev; echo; cut -d ' ' -f 5 /proc/self/mountinfo";
        let readable = [Path::new("/proc")];
        let seen = jailed_by(launcher, "/bin/sh", &["-c", script], &readable, &[]);
        let seen = String::from_utf8(seen.stdout).expect("text");
        let (namespaces, rest) = seen.split_at(seen.find("Inter-").expect("a table"));
        for (name, theirs) in NAMESPACES.iter().zip(namespaces.lines()) {
            let ours = fs::read_link(format!("/proc/self/ns/{name}")).expect("proc(5)");
            let is_own = ours != Path::new(theirs);
            assert!(
                is_own || (*name == "user" && launcher.is_empty()),
                "{theirs}"
            );
        }
        let (interfaces, mounts) = rest.split_once("\n\n").expect("two tables");
        let interfaces: Vec<&str> = interfaces.lines().skip(2).collect();
        assert_eq!(interfaces.len(), 1, "{interfaces:?}");
        assert!(interfaces[0].trim().starts_with("lo:"), "{interfaces:?}");
        let given = [
            "/usr",
            "/lib",
            "/lib64",
            "/etc/ld.so.cache",
            "/bin",
            "/proc",
        ];
        for mount in mounts.lines() {
            let is_given = given.iter().any(|path| Path::new(mount).starts_with(path));
            assert!(is_given || mount == "/", "{mount}");
        }
    }
}

#[test]
fn qemu_that_is_found_by_a_link_runs_in_its_jail() {
    let qemu = "qemu-system-x86_64";
    let path = std::env::var("PATH").expect("a search path");
    let found = std::env::split_paths(&path).map(|directory| directory.join(qemu));
    let program = found.into_iter().find(|file| file.is_file()).expect(qemu);
    let host = Host::new();
    let links = host.path().join("links");
    fs::create_dir(&links).expect("a directory");
    std::os::unix::fs::symlink(program, links.join(qemu)).expect("a link");
    let host = host
        .with_environment("PATH", &format!("{}:{path}", links.display()))
        .with_environment("SMOLVM_BACKEND", "qemu");
    let said = host.smolvm(&["run", "--", "echo", "hi"]).ok();
    assert_eq!(said.text(), "hi\n");
}

#[test]
fn vmm_of_another_user_ends_with_its_supervisor_too() {
    // The supervisor here is a shell, which says the number of what it has started and then waits.
    let plan = json!({
        "program": { "path": "/bin/sleep", "arguments": [{ "Unix": b"1000" }] },
        "readable": ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/bin"],
        "writable": [],
        "max_file_bytes": 4096,
        "supervisor_pid": 0,
    });
    let plan = plan
        .to_string()
        .replace("\"supervisor_pid\":0", "\"supervisor_pid\":'$$'");
    let directory = tempfile::tempdir().expect("directory");
    let script = format!(
        "echo '{plan}' >{file}; {} {} jail <{file} & echo $!; wait",
        AS_NOBODY.join(" "),
        binary("smolvm-vmm").display(),
        file = directory.path().join("plan").display(),
    );
    let mut supervisor = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawned");
    let mut line = String::new();
    let output = supervisor.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut line).expect("a line");
    let name = format!("/proc/{}/comm", line.trim());
    let host = Host::new();
    host.wait_until("the program in its jail", |_| {
        fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n")
    });
    kill(supervisor.id());
    assert_eq!(wait(&mut supervisor), 128 + 9);
    host.wait_until("its end", |_| !Path::new(&name).exists());
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
    // Where it has a root of its own, there is no such file.
    let words = ["Permission denied", "No such file"];
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.iter().any(|word| said.contains(word)), "{said}");

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
