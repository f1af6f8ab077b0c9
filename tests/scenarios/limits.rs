//! What commands may use: memory, processor time, processes.

use std::time::Instant;

use smolvm_sandbox::EndReason;
use smolvm_sandbox::message::{Exec, ExitReason, Limits};
use smolvm_tests::Host;
use smolvm_tests::library::{run, shell};

fn limited(script: &str, limits: Limits) -> Exec {
    Exec {
        limits,
        ..shell(script)
    }
}

const GREEDY: &str = "python3 -c \"x = b'x' * (200 << 20); print('had it')\"";

#[tokio::test]
async fn command_over_its_memory_ends_as_out_of_memory_and_others_go_on() {
    let host = Host::new();
    host.start("box", &[]);
    let sandbox = host.open("box");
    let memory = |memory_mib| Limits {
        memory_mib: Some(memory_mib),
        ..Limits::default()
    };
    let (greedy, modest) = tokio::join!(
        run(&sandbox, limited(GREEDY, memory(64))),
        run(&sandbox, limited("sleep 1; echo done", memory(64))),
    );
    assert_eq!(greedy.reason, EndReason::Guest(ExitReason::OutOfMemory));
    assert_eq!(greedy.stdout, "");
    assert_eq!(modest.stdout, "done\n");
    let unlimited = run(&sandbox, shell(GREEDY)).await;
    assert_eq!(unlimited.stdout, "had it\n");
    // So little that the command can hardly be executed.
    let starved = run(&sandbox, limited(GREEDY, memory(1))).await;
    assert_eq!(starved.reason, EndReason::Guest(ExitReason::OutOfMemory));
}

#[tokio::test]
async fn command_gets_the_share_of_a_processor_that_it_may_have() {
    let host = Host::new();
    host.start("box", &[]);
    let sandbox = host.open("box");
    let spin = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; cat /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/cpu.stat";
    let begun = Instant::now();
    let free = run(&sandbox, shell(spin)).await;
    let free_time = begun.elapsed();
    let begun = Instant::now();
    let limits = Limits {
        cpu_percent: Some(20),
        ..Limits::default()
    };
    let throttled = run(&sandbox, limited(spin, limits)).await;
    let throttled_time = begun.elapsed();
    assert!(free.stdout.contains("nr_throttled 0\n"), "{}", free.stdout);
    assert!(
        !throttled.stdout.contains("nr_throttled 0\n"),
        "{}",
        throttled.stdout
    );
    assert!(
        throttled_time > free_time * 2,
        "{throttled_time:?} {free_time:?}"
    );
}

#[tokio::test]
async fn command_cannot_have_more_processes_than_it_may() {
    let host = Host::new();
    host.start("box", &[]);
    let sandbox = host.open("box");
    let limits = Limits {
        processes: Some(5),
        ..Limits::default()
    };
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 30 & done; echo all";
    let printed = run(&sandbox, limited(script, limits)).await;
    assert_ne!(printed.stdout, "all\n");
    assert!(printed.stderr.contains("fork"), "{}", printed.stderr);
}

#[tokio::test]
async fn fork_bomb_leaves_the_sandbox_answering() {
    let host = Host::new();
    let sandbox = host
        .start_as("box", |spec| spec.max_processes = Some(64))
        .await;
    let bomb = sandbox
        .exec(shell("bomb() { bomb | bomb & }; bomb; sleep 1000"))
        .await;
    let mut bomb = bomb.expect("started");
    host.wait_until("the limit", |host| {
        // Shells of the bomb die of the limit too, so there is room again now and then.
        let refused = host.sh("box", "true");
        refused.code != 0 && refused.errors().contains("out of processes")
    });
    let (attributes, _file) = sandbox
        .read_file(b"/sys/fs/cgroup/smolvm/commands/pids.current")
        .await
        .expect("files can still be read");
    assert_eq!(attributes.mode & 0o777, 0o444);
    bomb.input.kill().await.expect("asked");
    host.wait_until("room for a command", |host| {
        host.sh("box", "true").code == 0
    });
}

#[tokio::test]
async fn limit_of_nothing_is_refused() {
    let host = Host::new();
    host.start("box", &[]);
    let sandbox = host.open("box");
    let limits = Limits {
        processes: Some(0),
        ..Limits::default()
    };
    let error = sandbox.exec(limited("true", limits)).await;
    let message = error.expect_err("refused").to_string();
    assert_eq!(message, "a limit of zero leaves nothing to run with");
}
