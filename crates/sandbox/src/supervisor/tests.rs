//! The supervisor in this process, over the fake engine, used through the same handle that
//! clients use.

mod at_end;

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use smolvm_protocol::Frame;
use smolvm_protocol::control::{LeaseRequest, SupervisorReply};
use smolvm_protocol::message::{Command, Exec, ExitReason, Limits, Refusal, RefusalCode};
use tokio::task::JoinHandle;

use super::clients::Connection;
use super::driver::milliseconds;
use super::*;
use crate::engine::fake::Script;
use crate::plan::SupervisorPlan;
use crate::{
    AccessError, EndReason, EngineChoice, Installation, Lifetime, Output, Process, Sandbox,
    SandboxId, SandboxSpec,
};

/// Long enough for anything that works, short enough for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    directory: tempfile::TempDir,
    id: SandboxId,
    lease: Option<crate::access::Connection>,
    supervisor: JoinHandle<Result<(), SuperviseError>>,
}

impl Fixture {
    /// Starts a supervisor for a new sandbox whose guest follows `script`.
    fn start(script: Script, lifetime: Lifetime) -> Self {
        Self::start_within(script, lifetime, PATIENCE)
    }

    fn start_within(script: Script, lifetime: Lifetime, start_timeout: Duration) -> Self {
        let spec = SandboxSpec::new(SandboxId::random(), lifetime);
        Self::start_as(script, spec, start_timeout)
    }

    fn start_as(script: Script, mut spec: SandboxSpec, start_timeout: Duration) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(directory.path()).expect("store");
        let id = spec.id.clone();
        spec.engine = EngineChoice::Fake;
        let (lock, _) = store
            .create(&spec, |_| Ok::<(), StoreError>(()))
            .expect("free name");
        SupervisorPlan::for_fake(&spec, script, milliseconds(start_timeout))
            .save(lock.directory())
            .expect("saved");
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        let supervisor = tokio::spawn(supervise(Inherited { store, lock }, theirs));
        let lease = Some(Connection::new(ours, smolvm_protocol::FrameCodec));
        Self {
            directory,
            id,
            lease,
            supervisor,
        }
    }

    async fn ready(script: Script, lifetime: Lifetime) -> Self {
        let mut fixture = Self::start(script, lifetime);
        let event = fixture.event().await;
        assert!(matches!(event, LeaseEvent::Ready(_)), "{event:?}");
        fixture
    }

    async fn event(&mut self) -> LeaseEvent {
        let lease = self.lease.as_mut().expect("lease is held");
        let frame = tokio::time::timeout(PATIENCE, lease.next())
            .await
            .expect("in time");
        frame
            .expect("an event")
            .expect("a frame")
            .parse()
            .expect("an event")
    }

    fn sandbox(&self) -> Sandbox {
        let nowhere = PathBuf::from("/nonexistent");
        let installation = Installation {
            data_dir: self.directory.path().to_owned(),
            cache_dir: nowhere.clone(),
            smolvm: nowhere.clone(),
            vmm: nowhere.clone(),
            agent: nowhere,
            qemu: None,
        };
        Sandbox::open(Arc::new(installation), self.id.clone()).expect("sandbox exists")
    }

    /// Waits until the supervisor has ended, and returns the state it has left.
    async fn ended(self) -> Option<(SandboxState, Option<String>)> {
        tokio::time::timeout(PATIENCE, self.supervisor)
            .await
            .expect("in time")
            .expect("no panic")
            .expect("no error");
        let store = Store::open(self.directory.path()).expect("store");
        let left = std::fs::read_dir(self.directory.path().join("sandboxes"))
            .expect("readable")
            .flatten()
            .map(|entry| entry.file_name().into_string().expect("UTF-8"))
            .filter(|name| name.starts_with(".new-") || name.starts_with(".gone-"))
            .collect::<Vec<_>>();
        assert!(left.is_empty(), "{left:?}");
        store
            .info(&self.id)
            .ok()
            .map(|info| (info.state, info.reason))
    }
}

fn exec(words: &[&str]) -> Exec {
    Exec {
        command: Command::Arguments(
            words
                .iter()
                .map(|word| serde_bytes::ByteBuf::from(word.as_bytes()))
                .collect(),
        ),
        environment: Vec::new(),
        working_directory: None,
        user: None,
        stdin: true,
        terminal: None,
        timeout_ms: None,
        limits: Limits::default(),
    }
}

/// Runs a process to its end and returns its output and why it ended.
async fn finish(mut process: Process) -> (Vec<u8>, EndReason) {
    let mut stdout = Vec::new();
    loop {
        let output = tokio::time::timeout(PATIENCE, process.output.next())
            .await
            .expect("in time");
        match output.expect("an output") {
            Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Output::Stderr(_) => {}
            Output::End(end) => return (stdout, end.reason),
        }
    }
}

#[tokio::test]
async fn ready_sandbox_runs_commands_and_passes_their_output_and_exit_code() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    let process = sandbox
        .exec(exec(&["echo", "hello", "there"]))
        .await
        .expect("started");
    let exited = |code| EndReason::Guest(ExitReason::Exited { code });
    assert_eq!(
        finish(process).await,
        (b"hello there\n".to_vec(), exited(0))
    );
    let process = sandbox.exec(exec(&["false"])).await.expect("started");
    assert_eq!(finish(process).await, (Vec::new(), exited(1)));
    sandbox.stop(Duration::ZERO).await.expect("stopped");
    fixture.ended().await;
}

#[tokio::test]
async fn input_larger_than_every_buffer_comes_back_whole() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    let Process {
        mut input,
        mut output,
        ..
    } = sandbox.exec(exec(&["cat"])).await.expect("started");
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    let writer = {
        let sent = sent.clone();
        async move {
            input.write(sent.into()).await.expect("written");
            input.close().await.expect("closed");
            input
        }
    };
    let reader = async {
        let mut received = Vec::new();
        loop {
            match output.next().await.expect("an output") {
                Output::Stdout(bytes) => received.extend_from_slice(&bytes),
                Output::Stderr(_) => {}
                Output::End(end) => break (received, end.reason),
            }
        }
    };
    let (_input, (received, reason)) = tokio::join!(writer, reader);
    assert_eq!(reason, EndReason::Guest(ExitReason::Exited { code: 0 }));
    assert!(
        received == sent,
        "{} of {} bytes, or other ones",
        received.len(),
        sent.len()
    );
    sandbox.stop(Duration::ZERO).await.expect("stopped");
    fixture.ended().await;
}

#[tokio::test]
async fn stop_shuts_the_guest_down_and_leaves_it_stopped() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    fixture.sandbox().stop(PATIENCE).await.expect("stopped");
    let error = fixture
        .sandbox()
        .exec(exec(&["true"]))
        .await
        .expect_err("not running");
    assert!(
        error.to_string().ends_with("is stopped, not running"),
        "{error}"
    );
    let (state, reason) = fixture.ended().await.expect("kept");
    assert_eq!(
        (state, reason.as_deref()),
        (SandboxState::Stopped, Some("stopped"))
    );
}

#[tokio::test]
async fn guest_that_ignores_the_shutdown_is_killed_after_its_grace() {
    let fixture = Fixture::ready(Script::Stubborn, Lifetime::Persistent).await;
    fixture
        .sandbox()
        .stop(Duration::from_millis(20))
        .await
        .expect("stopped");
    assert_eq!(
        fixture.ended().await.expect("kept").0,
        SandboxState::Stopped
    );
}

#[tokio::test]
async fn second_stop_does_not_cut_the_grace_of_the_first_short() {
    const GRACE: Duration = Duration::from_millis(300);

    let fixture = Fixture::ready(Script::Stubborn, Lifetime::Persistent).await;
    let (sandbox, other) = (fixture.sandbox(), fixture.sandbox());
    let begun = std::time::Instant::now();
    let (first, second) = tokio::join!(sandbox.stop(PATIENCE), other.stop(GRACE));
    first.expect("stopped");
    second.expect("stopped");
    assert!(
        begun.elapsed() >= GRACE,
        "killed after {:?}",
        begun.elapsed()
    );
    fixture.ended().await;
}

#[tokio::test]
async fn start_fails_when_the_guest_breaks_the_connection_off_and_runs_on() {
    let mut fixture = Fixture::start(Script::HangingUp, Lifetime::Persistent);
    let LeaseEvent::Failed(failure) = fixture.event().await else {
        panic!("must fail")
    };
    assert!(failure.message.contains("broke off"), "{}", failure.message);
    assert_eq!(fixture.ended().await.expect("kept").0, SandboxState::Error);
}

#[tokio::test]
async fn stop_during_the_boot_leaves_it_stopped() {
    let fixture = Fixture::start(Script::Silent, Lifetime::Persistent);
    let sandbox = fixture.sandbox();
    let stopped = async {
        // Until the supervisor listens, there is nobody to stop.
        while sandbox.status().await.is_err() {
            tokio::task::yield_now().await;
        }
        sandbox.stop(PATIENCE).await
    };
    stopped.await.expect("stopped");
    assert_eq!(
        fixture.ended().await.expect("kept").0,
        SandboxState::Stopped
    );
}

#[tokio::test]
async fn stop_of_a_stopped_sandbox_is_no_error() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    sandbox.stop(PATIENCE).await.expect("stopped");
    sandbox.stop(PATIENCE).await.expect("stopped already");
    fixture.ended().await;
}

#[tokio::test]
async fn silent_agent_fails_the_start_in_time() {
    let mut fixture = Fixture::start_within(
        Script::Silent,
        Lifetime::Persistent,
        Duration::from_millis(1),
    );
    let LeaseEvent::Failed(failure) = fixture.event().await else {
        panic!("must fail")
    };
    assert_eq!(failure.kind, StartFailureKind::AgentSilent);
    let (state, reason) = fixture.ended().await.expect("kept");
    assert_eq!(state, SandboxState::Error);
    assert_eq!(
        reason.as_deref(),
        Some("the agent did not answer within 0 s")
    );
}

#[tokio::test]
async fn deadlines_do_not_count_while_the_guest_comes_up() {
    const START_TIMEOUT: Duration = Duration::from_millis(300);

    let mut spec = SandboxSpec::new(SandboxId::random(), Lifetime::Persistent);
    spec.idle_timeout_ms = Some(1);
    spec.max_lifetime_ms = Some(1);
    let begun = std::time::Instant::now();
    let mut fixture = Fixture::start_as(Script::Silent, spec, START_TIMEOUT);
    let LeaseEvent::Failed(failure) = fixture.event().await else {
        panic!("must fail")
    };
    assert_eq!(failure.kind, StartFailureKind::AgentSilent);
    assert!(begun.elapsed() >= START_TIMEOUT, "{:?}", begun.elapsed());
    fixture.ended().await;
}

#[tokio::test]
async fn kernel_panic_is_reported_with_the_consoles_last_words() {
    let mut fixture = Fixture::start(Script::Panicking, Lifetime::Persistent);
    let LeaseEvent::Failed(failure) = fixture.event().await else {
        panic!("must fail")
    };
    assert_eq!(failure.kind, StartFailureKind::GuestPanicked);
    assert!(
        failure
            .console_tail
            .iter()
            .any(|line| line.contains("Kernel panic"))
    );
    assert_eq!(fixture.ended().await.expect("kept").0, SandboxState::Error);
}

#[tokio::test]
async fn vmm_that_dies_at_start_is_reported_with_its_status() {
    let mut fixture = Fixture::start(Script::Dying, Lifetime::Persistent);
    let LeaseEvent::Failed(failure) = fixture.event().await else {
        panic!("must fail")
    };
    assert_eq!(failure.kind, StartFailureKind::VmmFailed);
    assert!(
        failure.message.contains("exit status: 1"),
        "{}",
        failure.message
    );
    fixture.ended().await;
}

#[tokio::test]
async fn agent_without_a_common_generation_is_refused() {
    let mut fixture = Fixture::start(Script::FromTheFuture, Lifetime::Persistent);
    let LeaseEvent::Failed(failure) = fixture.event().await else {
        panic!("must fail")
    };
    assert_eq!(failure.kind, StartFailureKind::Incompatible);
    fixture.ended().await;
}

#[tokio::test]
async fn leased_sandbox_is_gone_with_its_lease() {
    let mut fixture = Fixture::ready(Script::Ready, Lifetime::Leased).await;
    fixture.lease = None;
    assert_eq!(fixture.ended().await, None);
}

#[tokio::test]
async fn leased_sandbox_is_gone_when_the_lease_is_lost_during_the_boot() {
    let mut fixture = Fixture::start(Script::Silent, Lifetime::Leased);
    fixture.lease = None;
    assert_eq!(fixture.ended().await, None);
}

#[tokio::test]
async fn released_sandbox_outlives_its_lease() {
    let mut fixture = Fixture::ready(Script::Ready, Lifetime::Leased).await;
    let mut lease = fixture.lease.take().expect("held");
    let release = Frame::message(&LeaseRequest::Release).expect("small");
    lease.send(release).await.expect("sent");
    drop(lease);
    let sandbox = fixture.sandbox();
    let process = sandbox.exec(exec(&["true"])).await.expect("still running");
    finish(process).await;
    sandbox.delete().await.expect("deleted");
    assert_eq!(fixture.ended().await, None);
}

#[tokio::test]
async fn persistent_sandbox_outlives_its_lease() {
    let mut fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    fixture.lease = None;
    let sandbox = fixture.sandbox();
    assert_eq!(
        sandbox.status().await.expect("running").kernel_release,
        "fake"
    );
    sandbox.delete().await.expect("deleted");
    assert_eq!(fixture.ended().await, None);
}

#[tokio::test]
async fn command_of_a_deleted_sandbox_ends_as_stopped() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    let process = sandbox
        .exec(exec(&["sleep", "forever"]))
        .await
        .expect("started");
    fixture.sandbox().delete().await.expect("deleted");
    assert_eq!(finish(process).await.1, EndReason::SandboxStopped);
    assert_eq!(fixture.ended().await, None);
}

#[tokio::test]
async fn command_of_a_machine_that_dies_ends_with_the_reason() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    let mut process = sandbox.exec(exec(&["crash"])).await.expect("started");
    process.input.write("now".into()).await.expect("written");
    let EndReason::GuestDied { message, .. } = finish(process).await.1 else {
        panic!("must name the machine's death");
    };
    assert!(message.contains("SIGSEGV"), "{message}");
    assert_eq!(fixture.ended().await.expect("kept").0, SandboxState::Error);
}

#[tokio::test]
async fn command_that_does_not_exist_is_refused_as_such() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    let error = sandbox
        .exec(exec(&["no-such-command"]))
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    sandbox.stop(Duration::ZERO).await.expect("stopped");
    fixture.ended().await;
}

#[tokio::test]
async fn client_that_goes_frees_its_operation_though_its_input_was_never_read() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    let mut process = sandbox.exec(exec(&["stuck"])).await.expect("started");
    // More than every buffer on the way holds, so that the end stands behind unread bytes.
    let writing = process.input.write(vec![0; 16 << 20].into());
    let stalled = tokio::time::timeout(Duration::from_millis(200), writing).await;
    assert!(stalled.is_err(), "somebody read it");
    drop(process);
    let freed = async {
        while sandbox.status().await.expect("running").open_streams > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed)
        .await
        .expect("freed in time");
    sandbox.stop(Duration::ZERO).await.expect("stopped");
    fixture.ended().await;
}

#[tokio::test]
async fn timeout_ends_the_command_and_keeps_the_sandbox() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    let limited = Exec {
        timeout_ms: Some(10),
        ..exec(&["sleep", "forever"])
    };
    let process = sandbox.exec(limited).await.expect("started");
    assert_eq!(
        finish(process).await.1,
        EndReason::Guest(ExitReason::TimedOut)
    );
    let process = sandbox.exec(exec(&["true"])).await.expect("still running");
    finish(process).await;
    sandbox.stop(Duration::ZERO).await.expect("stopped");
    fixture.ended().await;
}

#[tokio::test]
async fn unknown_request_is_refused_and_the_next_client_served() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let store = Store::open(fixture.directory.path()).expect("store");
    let directory = store.existing(&fixture.id).expect("exists");
    let socket = directory.socket();
    let stream = socket::connect(&directory, &socket)
        .await
        .expect("connected");
    let mut connection = Connection::new(stream, smolvm_protocol::FrameCodec);
    connection
        .send(Frame::message(&"no such request").expect("small"))
        .await
        .expect("sent");
    let answer = connection
        .next()
        .await
        .expect("an answer")
        .expect("a frame");
    let SupervisorReply::Refused(refusal) = answer.parse().expect("a reply") else {
        panic!("must be refused");
    };
    assert_eq!(refusal.code, RefusalCode::UnknownRequest);

    let sandbox = fixture.sandbox();
    sandbox.status().await.expect("served");
    sandbox.stop(Duration::ZERO).await.expect("stopped");
    fixture.ended().await;
}

#[tokio::test]
async fn operations_beyond_the_limit_are_refused_and_counted() {
    let fixture = Fixture::ready(Script::Ready, Lifetime::Persistent).await;
    let sandbox = fixture.sandbox();
    let limit = smolvm_protocol::multiplex::MAX_OPERATIONS;
    let mut running = Vec::new();
    for _ in 0..limit {
        running.push(
            sandbox
                .exec(exec(&["sleep", "forever"]))
                .await
                .expect("within the limit"),
        );
    }
    let status = sandbox.status().await.expect("served");
    assert_eq!(usize::try_from(status.open_streams).expect("small"), limit);
    let error = sandbox
        .exec(exec(&["true"]))
        .await
        .expect_err("over the limit");
    assert!(matches!(
        error,
        crate::ExecError::Access(AccessError::Refused(Refusal {
            code: RefusalCode::ResourcesExhausted,
            ..
        }))
    ));
    sandbox.stop(Duration::ZERO).await.expect("stopped");
    drop(running);
    fixture.ended().await;
}
