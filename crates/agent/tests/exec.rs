//! Running commands, on a host where the agent is an ordinary process.

mod host;

use host::{Host, arguments, bytes, shell};
use smolvm_protocol::message::{Command, Control, Event, ExitReason, RefusalCode, TerminalSize};
use smolvm_protocol::{Frame, FrameKind};

const TERMINAL: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

#[tokio::test]
async fn arguments_reach_the_program_unchanged() {
    let host = Host::with_agent();
    let outcome = host
        .exec(arguments(&["printf", "<%s>", "a b", "", "$HOME", "*"]))
        .await;
    assert_eq!(outcome.stdout(), "<a b><><$HOME><*>");
    assert_eq!(outcome.reason(), ExitReason::Exited { code: 0 });
}

#[tokio::test]
async fn program_with_a_slash_is_not_looked_up() {
    let host = Host::with_agent();
    let outcome = host.exec(arguments(&["/bin/echo", "direct"])).await;
    assert_eq!(outcome.stdout(), "direct\n");
}

#[tokio::test]
async fn output_and_error_output_arrive_apart() {
    let host = Host::with_agent();
    let outcome = host.shell("echo out; echo err >&2").await;
    assert_eq!(outcome.stdout(), "out\n");
    assert_eq!(outcome.stderr(), "err\n");
}

#[tokio::test]
async fn output_arrives_while_the_command_runs() {
    let host = Host::with_agent();
    let mut request = shell("echo first; read line; echo \"got $line\"");
    request.stdin = true;
    let mut command = host.start_exec(request).await;
    command.output_until("first\n").await;
    command.send_input(b"reply\n").await;
    assert_eq!(command.output_until("\n").await, "got reply\n");
}

#[tokio::test]
async fn exit_status_is_reported() {
    let host = Host::with_agent();
    let outcome = host.shell("exit 37").await;
    assert_eq!(outcome.reason(), ExitReason::Exited { code: 37 });
}

#[tokio::test]
async fn signal_that_ends_the_command_is_reported() {
    let host = Host::with_agent();
    let outcome = host.shell("kill -USR1 $$").await;
    assert_eq!(
        outcome.reason(),
        ExitReason::Signalled {
            number: libc::SIGUSR1
        }
    );
}

#[tokio::test]
async fn signal_from_the_host_reaches_the_process_group() {
    let host = Host::with_agent();
    let script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done";
    let mut command = host.start_exec(shell(script)).await;
    command.output_until("ready\n").await;
    let number = libc::SIGINT;
    command.control(Control::Signal { number }).await;
    let outcome = command.outcome().await;
    assert_eq!(outcome.stdout(), "caught\n");
    assert_eq!(outcome.reason(), ExitReason::Exited { code: 3 });
}

#[tokio::test]
async fn impossible_signal_is_malformed() {
    let host = Host::with_agent();
    let mut command = host.start_exec(arguments(&["sleep", "600"])).await;
    command.control(Control::Signal { number: 65 }).await;
    let outcome = command.outcome().await;
    assert_eq!(outcome.refusal_code(), RefusalCode::Malformed);
}

#[tokio::test]
async fn defaults_of_the_user_are_in_the_environment() {
    let host = Host::with_agent();
    let outcome = host
        .shell("echo $HOME $USER $LOGNAME $SHELL $LANG; echo $PATH; pwd")
        .await;
    let account = "/root root root /bin/bash C.UTF-8";
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(outcome.stdout(), format!("{account}\n{path}\n/root\n"));
}

#[tokio::test]
async fn given_variables_replace_the_defaults_and_nothing_else_is_inherited() {
    let host = Host::with_agent();
    let mut request = arguments(&["env"]);
    request.environment = vec![
        (bytes("HOME"), bytes("/elsewhere")),
        (bytes("EXTRA"), bytes("a=b\nc")),
    ];
    let outcome = host.exec(request).await;
    let mut names: Vec<String> = outcome
        .stdout()
        .lines()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.to_owned()))
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["EXTRA", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"]
    );
    assert!(outcome.stdout().contains("HOME=/elsewhere\n"));
    assert!(outcome.stdout().contains("EXTRA=a=b\nc\n"));
}

#[tokio::test]
async fn working_directory_is_entered() {
    let host = Host::with_agent();
    let mut request = arguments(&["pwd"]);
    request.working_directory = Some(bytes("/usr/bin"));
    assert_eq!(host.exec(request).await.stdout(), "/usr/bin\n");
}

#[tokio::test]
async fn missing_working_directory_is_not_found() {
    let host = Host::with_agent();
    let mut request = arguments(&["pwd"]);
    request.working_directory = Some(bytes("/does/not/exist"));
    let outcome = host.exec(request).await;
    assert_eq!(outcome.refusal_code(), RefusalCode::NotFound);
    let refusal = outcome.refusal.expect("a refusal");
    assert_eq!(
        refusal.message,
        "/does/not/exist: no such file or directory"
    );
}

#[tokio::test]
async fn other_user_has_its_own_ids_and_home() {
    let host = Host::with_agent();
    let mut request = shell("id -u; id -g; id -G; echo $HOME");
    request.user = Some("daemon".to_owned());
    assert_eq!(host.exec(request).await.stdout(), "1\n1\n1\n/usr/sbin\n");
}

#[tokio::test]
async fn unknown_user_is_refused() {
    let host = Host::with_agent();
    let mut request = arguments(&["true"]);
    request.user = Some("no-such-user".to_owned());
    let outcome = host.exec(request).await;
    assert_eq!(outcome.refusal_code(), RefusalCode::UnknownUser);
}

#[tokio::test]
async fn login_shell_knows_that_it_is_one() {
    let host = Host::with_agent();
    let mut request = shell("");
    request.command = Command::LoginShell;
    request.stdin = true;
    let mut command = host.start_exec(request).await;
    command
        .send_input(b"shopt -q login_shell && echo login\n")
        .await;
    assert_eq!(command.outcome().await.stdout(), "login\n");
}

#[tokio::test]
async fn input_ends_when_the_host_says_so() {
    let host = Host::with_agent();
    let mut request = arguments(&["sha256sum"]);
    request.stdin = true;
    let mut command = host.start_exec(request).await;
    command.send_input(&vec![b'x'; 1_000_000]).await;
    let same = "head -c 1000000 /dev/zero | tr '\\0' x | sha256sum";
    let expected = host.shell(same).await.stdout();
    assert_eq!(command.outcome().await.stdout(), expected);
}

#[tokio::test]
async fn command_without_input_reads_nothing() {
    let host = Host::with_agent();
    let outcome = host.exec(arguments(&["cat"])).await;
    assert_eq!(outcome.reason(), ExitReason::Exited { code: 0 });
}

#[tokio::test]
async fn input_that_was_not_announced_is_malformed() {
    let host = Host::with_agent();
    let mut command = host.start_exec(arguments(&["sleep", "600"])).await;
    command
        .send(Frame::data(FrameKind::Input, "x".into()))
        .await;
    let outcome = command.outcome().await;
    assert_eq!(outcome.refusal_code(), RefusalCode::Malformed);
}

#[tokio::test]
async fn command_that_closes_its_input_early_still_ends_well() {
    let host = Host::with_agent();
    let mut request = arguments(&["head", "-c", "1"]);
    request.stdin = true;
    let mut command = host.start_exec(request).await;
    command.send_input(&vec![b'y'; 300_000]).await;
    let outcome = command.outcome().await;
    assert_eq!(outcome.stdout(), "y");
    assert_eq!(outcome.reason(), ExitReason::Exited { code: 0 });
}

#[tokio::test]
async fn missing_command_is_named() {
    let host = Host::with_agent();
    let outcome = host.exec(arguments(&["no-such-command-here"])).await;
    assert_eq!(outcome.refusal_code(), RefusalCode::CommandNotFound);
    let refusal = outcome.refusal.expect("a refusal");
    assert_eq!(refusal.message, "no-such-command-here: command not found");
}

#[tokio::test]
async fn file_without_execute_permission_is_not_executable() {
    let host = Host::with_agent();
    let outcome = host.exec(arguments(&["/etc/passwd"])).await;
    assert_eq!(outcome.refusal_code(), RefusalCode::NotExecutable);
}

#[tokio::test]
async fn arguments_over_the_kernel_limit_are_refused_as_such() {
    let host = Host::with_agent();
    // MAX_ARG_STRLEN is 128 KiB (execve(2)).
    let long = "x".repeat(200 * 1024);
    let outcome = host.exec(arguments(&["echo", &long])).await;
    assert_eq!(outcome.refusal_code(), RefusalCode::ArgumentsTooLong);
}

#[tokio::test]
async fn nul_byte_and_empty_command_are_invalid() {
    let host = Host::with_agent();
    let nul = host.exec(arguments(&["echo", "a\0b"])).await;
    let empty = host.exec(arguments(&[])).await;
    assert_eq!(nul.refusal_code(), RefusalCode::InvalidInput);
    assert_eq!(empty.refusal_code(), RefusalCode::InvalidInput);
}

#[tokio::test]
async fn command_starts_with_default_signals_and_only_standard_descriptors() {
    let host = Host::with_agent();
    let status = host.exec(arguments(&["cat", "/proc/self/status"])).await;
    let descriptors = host.exec(arguments(&["ls", "/proc/self/fd"])).await;
    let signals: Vec<String> = status
        .stdout()
        .lines()
        .filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ"))
        .map(str::to_owned)
        .collect();
    let none = ["SigPnd", "SigBlk", "SigIgn", "SigCgt"].map(|set| format!("{set}:\t{:016x}", 0));
    assert_eq!(signals, none);
    // Descriptor 3 is the directory that ls itself reads.
    assert_eq!(descriptors.stdout(), "0\n1\n2\n3\n");
}

#[tokio::test]
async fn command_leads_its_own_session() {
    let host = Host::with_agent();
    let outcome = host
        .exec(arguments(&[
            "cut",
            "-d",
            " ",
            "-f",
            "1,5,6",
            "/proc/self/stat",
        ]))
        .await;
    let pid = outcome.pid;
    assert_eq!(outcome.stdout(), format!("{pid} {pid} {pid}\n"));
}

#[tokio::test]
async fn time_up_kills_the_command_and_keeps_its_output() {
    let host = Host::with_agent();
    let mut request = shell("echo partial; sleep 600 & sleep 600");
    request.timeout_ms = Some(300);
    let outcome = host.exec(request).await;
    assert_eq!(outcome.reason(), ExitReason::TimedOut);
    assert_eq!(outcome.stdout(), "partial\n");
    let elapsed_ms = outcome.exit.expect("an exit").elapsed_ms;
    assert!((250..10_000).contains(&elapsed_ms), "{elapsed_ms} ms");
}

#[tokio::test]
async fn host_can_kill_a_command_that_ignores_signals() {
    let host = Host::with_agent();
    let script = "trap '' TERM INT HUP; echo ready; while :; do sleep 0.05; done";
    let mut command = host.start_exec(shell(script)).await;
    command.output_until("ready\n").await;
    command.control(Control::Kill).await;
    assert_eq!(command.outcome().await.reason(), ExitReason::Killed);
}

#[tokio::test]
async fn dropped_stream_kills_the_command_and_its_children() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let fifo = directory.path().join("alive");
    let host = Host::with_agent();
    let path = fifo.display();
    let script = format!("mkfifo {path}; echo ready; cat {path}");
    let mut reader = host.start_exec(shell(&script)).await;
    reader.output_until("ready\n").await;
    // The FIFO ends for its reader when the last of both processes is gone.
    let script = format!("exec 3>{path}; echo open; sleep 600 & sleep 600");
    let mut command = host.start_exec(shell(&script)).await;
    command.output_until("open\n").await;
    drop(command);
    assert_eq!(
        reader.outcome().await.reason(),
        ExitReason::Exited { code: 0 }
    );
}

#[tokio::test]
async fn daemon_outlives_its_command_and_does_not_delay_its_end() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let fifo = directory.path().join("fifo");
    let host = Host::with_agent();
    let path = fifo.display();
    // The daemon writes to the command's own output after the command has ended, then proves
    // that it is alive.
    let script = format!(
        "mkfifo {path}; (read go <{path}; echo late; echo late >&2; echo alive >{path}) & \
         echo started"
    );
    let outcome = host.shell(&script).await;
    assert_eq!(outcome.stdout(), "started\n");
    assert_eq!(outcome.reason(), ExitReason::Exited { code: 0 });
    let proof = host.shell(&format!("echo go >{path}; cat {path}")).await;
    assert_eq!(proof.stdout(), "alive\n");
}

#[tokio::test]
async fn everything_written_before_the_end_arrives() {
    let host = Host::with_agent();
    let outcome = host.shell("head -c 5000000 /dev/zero").await;
    assert_eq!(outcome.stdout.len(), 5_000_000);
}

#[tokio::test]
async fn terminal_has_its_size_and_controls_the_session() {
    let host = Host::with_agent();
    let mut request = shell("tty >/dev/null && stty size; echo $TERM; ps -o tty= -p $$ | wc -w");
    request.terminal = Some(TERMINAL);
    let outcome = host.exec(request).await;
    assert_eq!(outcome.stdout(), "24 80\r\nxterm-256color\r\n1\r\n");
    assert_eq!(outcome.reason(), ExitReason::Exited { code: 0 });
}

#[tokio::test]
async fn terminal_can_be_resized_and_typed_at() {
    let host = Host::with_agent();
    let mut request = shell("stty -echo; echo ready; read line; stty size; echo \"$line\"");
    request.terminal = Some(TERMINAL);
    let mut command = host.start_exec(request).await;
    command.output_until("ready").await;
    let size = TerminalSize {
        rows: 50,
        columns: 132,
    };
    command.control(Control::Resize(size)).await;
    command
        .send(Frame::data(FrameKind::Input, "typed\n".into()))
        .await;
    let outcome = command.outcome().await;
    assert!(
        outcome.stdout().contains("50 132\r\ntyped\r\n"),
        "{:?}",
        outcome.stdout()
    );
}

#[tokio::test]
async fn interrupt_typed_at_a_terminal_interrupts() {
    let host = Host::with_agent();
    let mut request = shell("echo ready; exec sleep 600");
    request.terminal = Some(TERMINAL);
    let mut command = host.start_exec(request).await;
    command.output_until("ready").await;
    command
        .send(Frame::data(FrameKind::Input, "\u{3}".into()))
        .await;
    assert_eq!(
        command.outcome().await.reason(),
        ExitReason::Signalled {
            number: libc::SIGINT
        }
    );
}

#[tokio::test]
async fn host_that_does_not_read_stops_the_command_and_loses_nothing() {
    const BLOCKS: usize = 400;
    const BLOCK_BYTES: usize = 65_536;
    // The stream's window, the transport, the pipe and two frames, with room to spare.
    const STALLED_BLOCKS: usize = 2 * 1024 * 1024 / BLOCK_BYTES;
    let directory = tempfile::tempdir().expect("temporary directory");
    let progress = directory.path().join("progress");
    let host = Host::with_agent();
    let script = format!(
        "for i in $(seq {BLOCKS}); do head -c {BLOCK_BYTES} /dev/zero; echo >>{}; done",
        progress.display()
    );
    let mut command = host.start_exec(shell(&script)).await;
    let first = command.frame().await.expect("started");
    assert!(matches!(first.parse(), Ok(Event::Started { .. })));
    // Other commands go on while this one is stalled, and give it time to go too far.
    for _ in 0..20 {
        assert_eq!(host.shell("echo meanwhile").await.stdout(), "meanwhile\n");
    }
    let written = std::fs::read(&progress).expect("readable").len();
    assert!(written < STALLED_BLOCKS, "{written} blocks");
    let outcome = command.outcome().await;
    assert_eq!(outcome.stdout.len(), BLOCKS * BLOCK_BYTES);
}

#[tokio::test]
async fn many_commands_run_at_once() {
    let host = Host::with_agent();
    let scripts: Vec<String> = (0..40).map(|code| format!("exit {code}")).collect();
    let commands = scripts.iter().map(|script| host.shell(script));
    let outcomes = futures::future::join_all(commands).await;
    let codes: Vec<ExitReason> = outcomes.iter().map(host::Outcome::reason).collect();
    let expected: Vec<ExitReason> = (0..40).map(|code| ExitReason::Exited { code }).collect();
    assert_eq!(codes, expected);
}
