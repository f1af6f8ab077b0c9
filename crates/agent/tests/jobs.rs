//! Jobs through the protocol, against an agent in this process.

mod host;

use std::path::Path;

use bytes::Bytes;
use host::{Host, Operation, bytes, refusal_code, shell};
use smolvm_protocol::message::{
    Control, Event, Exec, ExitReason, JobStatus, MAX_JOB_BUFFER_BYTES, MAX_JOBS, Refusal,
    RefusalCode, Request, StartJob,
};
use smolvm_protocol::{Frame, FrameKind};

const BUFFER_BYTES: u32 = 64 * 1024;

fn job(id: &str, exec: Exec, buffer_bytes: u32) -> Request {
    Request::StartJob(StartJob {
        id: id.to_owned(),
        exec,
        buffer_bytes,
    })
}

async fn start(host: &Host, id: &str, script: &str) -> u32 {
    start_exec(host, id, shell(script)).await
}

async fn start_exec(host: &Host, id: &str, exec: Exec) -> u32 {
    let mut operation = host.start(&job(id, exec, BUFFER_BYTES)).await;
    let Event::Started { pid } = operation.event().await else {
        panic!("not started");
    };
    assert_eq!(operation.event().await, Event::Done);
    pid
}

async fn try_attach(host: &Host, id: &str, cursor: u64) -> Result<(JobStatus, Operation), Refusal> {
    let request = Request::AttachJob {
        id: id.to_owned(),
        cursor,
    };
    let mut operation = host.start(&request).await;
    match operation.event().await {
        Event::Job(status) => Ok((status, operation)),
        Event::Refused(refusal) => Err(refusal),
        event => panic!("unexpected answer: {event:?}"),
    }
}

async fn attach(host: &Host, id: &str, cursor: u64) -> Operation {
    try_attach(host, id, cursor).await.expect("attached").1
}

async fn list(host: &Host) -> Vec<JobStatus> {
    let mut operation = host.start(&Request::ListJobs).await;
    let mut jobs = Vec::new();
    loop {
        match operation.event().await {
            Event::Job(job) => jobs.push(job),
            Event::Done => return jobs,
            event => panic!("unexpected answer: {event:?}"),
        }
    }
}

async fn remove(host: &Host, id: &str) -> Event {
    host.ask(&Request::RemoveJob { id: id.to_owned() }).await
}

/// Waits until a job has ended and returns how it is then.
async fn ended(host: &Host, id: &str) -> JobStatus {
    let mut client = attach(host, id, 0).await;
    while client.frame().await.is_some() {}
    let jobs = list(host).await;
    let job = jobs.into_iter().find(|job| job.id == id);
    job.expect("listed")
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
}

#[tokio::test]
async fn client_that_comes_back_misses_nothing_and_gets_nothing_twice() {
    let host = Host::with_agent();
    let directory = tempfile::tempdir().expect("temporary directory");
    let go = directory.path().join("go");
    let script = format!(
        "echo first; mkfifo {go}; echo ready; read line < {go}; echo $line; echo bad >&2; exit 3",
        go = go.display()
    );
    let pid = start(&host, "build", &script).await;
    let mut first = attach(&host, "build", 0).await;
    let seen = first.output_until("ready\n").await;
    drop(first);

    std::fs::write(&go, "second\n").expect("the job goes on without clients");
    let cursor = u64::try_from(seen.len()).expect("short");
    let rest = attach(&host, "build", cursor).await.outcome().await;
    assert_eq!(
        (rest.stdout().as_str(), rest.stderr().as_str()),
        ("second\n", "bad\n")
    );
    assert_eq!(rest.reason(), ExitReason::Exited { code: 3 });

    let (status, mut again) = try_attach(&host, "build", 0).await.expect("still known");
    assert_eq!((status.pid, status.oldest, status.written), (pid, 0, 23));
    assert_eq!(status.exit, rest.exit);
    assert_eq!(again.outcome().await.stdout(), "first\nready\nsecond\n");
}

#[tokio::test]
async fn every_client_gets_all_output() {
    let host = Host::with_agent();
    let mut exec = shell("read line; seq 1 20000");
    exec.stdin = true;
    start_exec(&host, "count", exec).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(attach(&host, "count", 0).await);
    }
    clients[1].send_input(b"go\n").await;
    // The others' end of input, and input after it, do no harm.
    clients[2].send(Frame::end()).await;
    let expected: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    for mut client in clients {
        let mut read = String::new();
        let mut lost = 0;
        while let Some(frame) = client.frame().await {
            match frame.kind {
                FrameKind::Output => read.push_str(&String::from_utf8_lossy(&frame.payload)),
                _ => match frame.parse().expect("an event") {
                    Event::Lost { bytes } => lost += bytes,
                    event => assert!(matches!(event, Event::Exited(_)), "{event:?}"),
                },
            }
        }
        // Whoever is too slow for the buffer hears how much it missed.
        assert_eq!(
            usize::try_from(lost).expect("small") + read.len(),
            expected.len()
        );
        assert!(expected.ends_with(&read) || lost > 0);
    }
}

#[tokio::test]
async fn job_that_nobody_reads_goes_on_and_loses_its_oldest_output() {
    let host = Host::with_agent();
    start(&host, "loud", "head -c 300000 /dev/zero; printf end").await;
    let status = ended(&host, "loud").await;
    let kept = u64::from(BUFFER_BYTES);
    assert_eq!((status.oldest, status.written), (300_003 - kept, 300_003));
    let mut client = attach(&host, "loud", 10).await;
    let lost = 300_003 - kept - 10;
    assert_eq!(client.event().await, Event::Lost { bytes: lost });
    let rest = client.outcome().await;
    assert_eq!(rest.stdout.len(), usize::try_from(kept).expect("small"));
    assert!(rest.stdout.ends_with(b"\0end"));
}

#[tokio::test]
async fn attached_client_can_write_and_signal() {
    let host = Host::with_agent();
    let mut exec =
        shell("trap 'echo caught; exit 4' TERM; echo ready; while read l; do echo got $l; done");
    exec.stdin = true;
    start_exec(&host, "shell", exec).await;
    let mut client = attach(&host, "shell", 0).await;
    client.output_until("ready\n").await;
    let line = Frame::data(FrameKind::Input, Bytes::from_static(b"one\n"));
    client.send(line).await;
    client.output_until("got one\n").await;
    client.control(Control::Signal { number: 15 }).await;
    let outcome = client.outcome().await;
    assert_eq!(outcome.stdout(), "caught\n");
    assert_eq!(outcome.reason(), ExitReason::Exited { code: 4 });
}

#[tokio::test]
async fn client_that_breaks_the_protocol_does_not_harm_the_job() {
    let host = Host::with_agent();
    let pid = start(&host, "sleeper", "sleep 1000").await;
    let input = Frame::data(FrameKind::Input, Bytes::from_static(b"x"));
    let output = Frame::data(FrameKind::Output, Bytes::from_static(b"x"));
    let no_control = Frame::message(&"nonsense").expect("short");
    let no_signal = Frame::message(&Control::Signal { number: 65 }).expect("short");
    let expected = [
        (input, RefusalCode::InvalidInput),
        (output, RefusalCode::Malformed),
        (no_control, RefusalCode::Malformed),
        (no_signal, RefusalCode::Malformed),
    ];
    for (frame, code) in expected {
        let mut client = attach(&host, "sleeper", 0).await;
        client.send(frame).await;
        assert_eq!(refusal_code(&client.event().await), code);
    }
    assert!(is_alive(pid));
    assert_eq!(remove(&host, "sleeper").await, Event::Done);
}

#[tokio::test]
async fn removed_job_is_killed_and_forgotten() {
    let host = Host::with_agent();
    let pid = start(&host, "sleeper", "echo secret; sleep 1000").await;
    let mut client = attach(&host, "sleeper", 0).await;
    client.output_until("secret\n").await;
    assert_eq!(remove(&host, "sleeper").await, Event::Done);
    assert!(!is_alive(pid));
    assert_eq!(client.outcome().await.reason(), ExitReason::Killed);
    assert_eq!(list(&host).await, []);
    let error = try_attach(&host, "sleeper", 0).await.err().expect("gone");
    assert_eq!(error.code, RefusalCode::NotFound);
    assert_eq!(
        refusal_code(&remove(&host, "sleeper").await),
        RefusalCode::NotFound
    );
    start(&host, "sleeper", "true").await;
}

#[tokio::test]
async fn job_that_does_not_read_its_input_can_still_be_removed() {
    let host = Host::with_agent();
    let mut exec = shell("sleep 1000");
    exec.stdin = true;
    let pid = start_exec(&host, "deaf", exec).await;
    let mut client = attach(&host, "deaf", 0).await;
    let piece = Bytes::from(vec![0; smolvm_protocol::MAX_DATA_BYTES]);
    // More than pipe, agent and stream together take.
    let flood = async {
        loop {
            client
                .send(Frame::data(FrameKind::Input, piece.clone()))
                .await;
        }
    };
    tokio::select! {
        () = flood => {}
        answer = async {
            let mut jobs = list(&host).await;
            while jobs.is_empty() {
                jobs = list(&host).await;
            }
            remove(&host, "deaf").await
        } => assert_eq!(answer, Event::Done),
    }
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn timeout_of_a_job_counts_without_clients() {
    let host = Host::with_agent();
    let mut exec = shell("sleep 1000");
    exec.timeout_ms = Some(50);
    start_exec(&host, "late", exec).await;
    let status = ended(&host, "late").await;
    assert_eq!(status.exit.expect("ended").reason, ExitReason::TimedOut);
}

#[tokio::test]
async fn illegal_jobs_are_refused_with_the_reason() {
    let host = Host::with_agent();
    start(&host, "taken", "true").await;
    let long = "x".repeat(65);
    let refused = [
        ("taken", 1, RefusalCode::AlreadyExists),
        ("", 1, RefusalCode::InvalidInput),
        ("Upper", 1, RefusalCode::InvalidInput),
        ("a/b", 1, RefusalCode::InvalidInput),
        (long.as_str(), 1, RefusalCode::InvalidInput),
        ("none", 0, RefusalCode::InvalidInput),
        ("huge", MAX_JOB_BUFFER_BYTES + 1, RefusalCode::InvalidInput),
        (
            "more",
            MAX_JOB_BUFFER_BYTES,
            RefusalCode::ResourcesExhausted,
        ),
    ];
    for (id, buffer_bytes, code) in refused {
        let answer = host.ask(&job(id, shell("true"), buffer_bytes)).await;
        assert_eq!(refusal_code(&answer), code, "{id}: {answer:?}");
    }
    let error = try_attach(&host, "taken", 99).await.err().expect("refused");
    assert_eq!(error.code, RefusalCode::InvalidInput);
}

#[tokio::test]
async fn name_of_a_job_that_did_not_start_is_free_again() {
    let host = Host::with_agent();
    let mut exec = shell("true");
    exec.working_directory = Some(bytes("/does/not/exist"));
    let answer = host.ask(&job("one", exec, 1)).await;
    assert_eq!(refusal_code(&answer), RefusalCode::NotFound);
    assert_eq!(list(&host).await, []);
    start(&host, "one", "true").await;
}

#[tokio::test]
async fn number_of_jobs_is_limited() {
    let host = Host::with_agent();
    for number in 0..MAX_JOBS {
        start(&host, &format!("job-{number}"), "true").await;
    }
    let answer = host.ask(&job("one-more", shell("true"), 1)).await;
    assert_eq!(refusal_code(&answer), RefusalCode::ResourcesExhausted);
    assert_eq!(remove(&host, "job-0").await, Event::Done);
    start(&host, "one-more", "true").await;
}
