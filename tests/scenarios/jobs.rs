//! Jobs: commands that go on without whoever started them.

use std::io::Read as _;
use std::process::Stdio;

use smolvm_tests::{Host, kill, wait};

#[test]
fn client_that_was_killed_goes_on_where_it_was() {
    let host = Host::new();
    host.start("box", &[]);
    let script = "for i in 1 2 3; do echo out $i; done; \
                  until test -e /tmp/go; do sleep 0.05; done; \
                  echo late; echo problem >&2; exit 5";
    let started = host
        .smolvm(&["job", "start", "box", "--job", "build", "-c", script])
        .ok();
    assert_eq!(started.text(), "build\n");

    let mut client = host
        .command(&["job", "attach", "box", "build"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("smolvm");
    let mut seen = [0; "out 1\nout 2\nout 3\n".len()];
    let stdout = client.stdout.as_mut().expect("piped");
    stdout.read_exact(&mut seen).expect("output");
    assert_eq!(&seen, b"out 1\nout 2\nout 3\n");
    kill(client.id());
    let _status = wait(&mut client);

    let listed = host.smolvm(&["job", "list", "box"]).ok().text();
    assert!(
        listed.contains("build") && listed.contains("running"),
        "{listed}"
    );
    let _opened = host.sh("box", "touch /tmp/go").ok();
    let rest = host.smolvm(&["job", "attach", "box", "build", "--cursor", "18"]);
    assert_eq!((rest.text().as_str(), rest.code), ("late\n", 5));
    assert_eq!(rest.errors(), "problem\n");

    let listed = host.smolvm(&["job", "list", "box", "--json"]).ok().json();
    let job = &listed["data"]["jobs"][0];
    assert_eq!(job["status"], "exited");
    assert_eq!(job["exit_code"], 5);
    assert_eq!(job["written_bytes"], 31);
    let _removed = host.smolvm(&["job", "remove", "box", "build"]).ok();
    assert_eq!(host.smolvm(&["job", "attach", "box", "build"]).code, 125);
}

#[test]
fn oldest_output_of_a_job_is_lost_first_and_that_is_said() {
    let host = Host::new();
    host.start("box", &[]);
    let loud = [
        "job", "start", "box", "--job", "loud", "--buffer", "1", "-c",
    ];
    let script = "seq 1 5000; sleep 1000";
    let _started = host.smolvm(&[&loud[..], &[script]].concat()).ok();
    let job = |host: &Host| {
        let listed = host.smolvm(&["job", "list", "box", "--json"]).ok().json();
        listed["data"]["jobs"][0].clone()
    };
    host.wait_until("all output", |host| job(host)["written_bytes"] == 23_893);
    assert_eq!(job(&host)["oldest_byte"], 23_893 - 1024);
    let mut client = host
        .command(&["job", "attach", "box", "loud", "--cursor", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("smolvm");
    let mut kept = [0; 1024];
    let stdout = client.stdout.as_mut().expect("piped");
    stdout.read_exact(&mut kept).expect("output");
    assert!(kept.ends_with(b"\n4999\n5000\n"));
    let _removed = host.smolvm(&["job", "remove", "box", "loud"]).ok();
    assert_ne!(host.sh("box", "pgrep -x sleep").code, 0, "it was killed");
    assert_eq!(wait(&mut client), 137);
    let mut said = String::new();
    let stderr = client.stderr.as_mut().expect("piped");
    stderr.read_to_string(&mut said).expect("text");
    assert!(
        said.contains("22867 bytes of output are not kept any more"),
        "{said}"
    );
}

#[test]
fn job_ends_with_its_sandbox() {
    let host = Host::new();
    host.start("box", &[]);
    let script = "echo ready; sleep 1000";
    let _started = host
        .smolvm(&["job", "start", "box", "--job", "long", "-c", script])
        .ok();
    let mut client = host
        .command(&["job", "attach", "box", "long"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("smolvm");
    let mut ready = [0; 6];
    let stdout = client.stdout.as_mut().expect("piped");
    stdout.read_exact(&mut ready).expect("output");
    let _deleted = host.smolvm(&["delete", "box"]).ok();
    assert_eq!(wait(&mut client), 125);
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[test]
fn jobs_of_a_sandbox_that_does_not_run_cannot_be_had() {
    let host = Host::new();
    host.start("box", &[]);
    let script =
        "trap 'echo told > /root/end' TERM; touch /tmp/ready; while :; do sleep 0.05; done";
    let _started = host
        .smolvm(&["job", "start", "box", "--job", "long", "-c", script])
        .ok();
    host.wait_until("the job", |host| {
        host.sh("box", "test -e /tmp/ready").code == 0
    });
    let _stopped = host.smolvm(&["stop", "box"]).ok();
    let refused = host.smolvm(&["job", "list", "box"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.errors().contains("not running"),
        "{}",
        refused.errors()
    );
    let _started = host.smolvm(&["start", "box"]).ok();
    let none = host.smolvm(&["job", "list", "box"]).ok();
    assert_eq!(none.text(), "box has no jobs\n");
    assert_eq!(host.sh("box", "cat /root/end").ok().text(), "told\n");
}

#[test]
fn job_that_runs_keeps_its_sandbox_from_being_idle() {
    let host = Host::new();
    host.start("box", &["--idle-timeout", "6"]);
    let script = "sleep 14; echo built > /root/result; sync";
    let _started = host
        .smolvm(&["job", "start", "box", "--job", "build", "-c", script])
        .ok();
    let vm = |host: &Host| {
        let info = host.smolvm(&["info", "box", "--json"]).ok().json();
        info["data"]["vm"].clone()
    };
    host.wait_until("the end", |host| vm(host)["status"] == "stopped");
    assert_eq!(vm(&host)["reason"], "was idle for 6 s");
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(host.sh("box", "cat /root/result").ok().text(), "built\n");
}
