//! The session itself: hellos, requests that are not, connections, and the end.

mod host;

use std::net::Ipv4Addr;

use host::{Host, arguments, refusal_code, shell};
use serde::Serialize;
use smolvm_agent::{Environment, serve};
use smolvm_protocol::message::{
    Connect, Event, ExitReason, GuestNetwork, HostHello, InterfaceAddress, RefusalCode, Request,
};
use smolvm_protocol::{Frame, FrameKind, GENERATION, OLDEST_GENERATION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn hello(generation: u32, oldest_generation: u32) -> Request {
    Request::Hello(HostHello {
        generation,
        oldest_generation,
        unix_time_ns: 0,
        max_processes: None,
        network: None,
        ca_certificate: None,
        variables: None,
        identity: None,
    })
}

#[tokio::test]
async fn hello_is_answered_with_the_agent_s_own() {
    let host = Host::with_agent();
    let Event::Hello(answer) = host.ask(&hello(GENERATION, OLDEST_GENERATION)).await else {
        panic!("no hello");
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("readable");
    assert_eq!(answer.generation, GENERATION);
    assert_eq!(answer.kernel_release, release.trim_end());
}

#[tokio::test]
async fn agent_that_is_no_init_leaves_the_network_of_its_host_alone() {
    let host = Host::with_agent();
    let address = InterfaceAddress {
        address: Ipv4Addr::new(10, 0, 0, 2),
        prefix_length: 24,
        gateway: Ipv4Addr::new(10, 0, 0, 1),
    };
    let Request::Hello(mut hello) = hello(GENERATION, OLDEST_GENERATION) else {
        unreachable!("it is a hello");
    };
    hello.network = Some(GuestNetwork {
        mac: [0; 6],
        mtu: 1500,
        ipv4: address,
        ipv6: None,
        dns: Vec::new(),
        hosts: Vec::new(),
    });
    let answer = host.ask(&Request::Hello(hello)).await;
    assert_eq!(refusal_code(&answer), RefusalCode::InvalidInput);
}

#[tokio::test]
async fn generations_without_overlap_are_incompatible() {
    let host = Host::with_agent();
    let older = host.ask(&hello(0, 0)).await;
    let newer = host.ask(&hello(GENERATION + 9, GENERATION + 1)).await;
    assert_eq!(refusal_code(&older), RefusalCode::Incompatible);
    assert_eq!(refusal_code(&newer), RefusalCode::Incompatible);
}

#[tokio::test]
async fn newer_host_that_still_speaks_ours_is_welcome() {
    let host = Host::with_agent();
    let answer = host.ask(&hello(GENERATION + 9, GENERATION)).await;
    assert!(matches!(answer, Event::Hello(_)), "{answer:?}");
}

#[tokio::test]
async fn unknown_operation_is_named_so_and_the_stream_ends() {
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Newer {
        Teleport { to: String },
        Dance,
    }
    let host = Host::with_agent();
    let mut with_content = host.open().await;
    with_content
        .send_message(&Newer::Teleport { to: "/".into() })
        .await;
    let mut bare = host.open().await;
    bare.send_message(&Newer::Dance).await;
    assert_eq!(
        refusal_code(&with_content.event().await),
        RefusalCode::UnknownRequest
    );
    assert_eq!(with_content.frame().await, None);
    assert_eq!(
        refusal_code(&bare.event().await),
        RefusalCode::UnknownRequest
    );
}

#[tokio::test]
async fn known_operation_with_the_wrong_content_is_malformed() {
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Broken {
        Stat { path: bool },
    }
    let host = Host::with_agent();
    let mut operation = host.open().await;
    operation.send_message(&Broken::Stat { path: true }).await;
    assert_eq!(
        refusal_code(&operation.event().await),
        RefusalCode::Malformed
    );
}

#[tokio::test]
async fn every_operation_is_known_by_its_name() {
    let host = Host::with_agent();
    // A map whose value is a boolean is no operation's content.
    for name in [
        "hello",
        "exec",
        "read_file",
        "write_file",
        "stat",
        "list",
        "make_directory",
        "remove",
        "read_tree",
        "write_tree",
        "connect",
    ] {
        let mut operation = host.open().await;
        let content = std::collections::BTreeMap::from([(name, true)]);
        operation.send_message(&content).await;
        let code = refusal_code(&operation.event().await);
        assert_eq!(code, RefusalCode::Malformed, "{name}");
    }
}

#[tokio::test]
async fn garbage_instead_of_a_request_is_malformed() {
    let host = Host::with_agent();
    let mut noise = host.open().await;
    noise
        .send(Frame {
            kind: FrameKind::Message,
            payload: vec![0xc1; 100].into(),
        })
        .await;
    let mut data = host.open().await;
    data.send(Frame::data(FrameKind::Input, "x".into())).await;
    assert_eq!(refusal_code(&noise.event().await), RefusalCode::Malformed);
    assert_eq!(refusal_code(&data.event().await), RefusalCode::Malformed);
}

#[tokio::test]
async fn bytes_that_are_no_multiplexer_end_the_session() {
    let (mut ours, theirs) = tokio::io::duplex(1024);
    ours.write_all(&[0xff; 64]).await.expect("written");
    let result = serve(theirs, Environment::of_ordinary_process()).await;
    assert!(result.is_err());
}

#[tokio::test]
async fn session_ends_in_order_when_the_host_closes_it() {
    let (ours, theirs) = tokio::io::duplex(1024);
    drop(ours);
    let result = serve(theirs, Environment::of_ordinary_process()).await;
    assert!(result.is_ok());
}

#[tokio::test]
async fn end_of_the_session_kills_its_commands() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let fifo = directory.path().join("alive");
    let path = fifo.display();
    let first = Host::with_agent();
    let second = Host::with_agent();
    let script = format!("mkfifo {path}; echo ready; cat {path}");
    let mut reader = second.start_exec(shell(&script)).await;
    reader.output_until("ready\n").await;
    let script = format!("exec 3>{path}; echo open; exec sleep 600");
    let mut command = first.start_exec(shell(&script)).await;
    command.output_until("open\n").await;
    drop(command);
    drop(first);
    assert_eq!(
        reader.outcome().await.reason(),
        ExitReason::Exited { code: 0 }
    );
}

#[tokio::test]
async fn connection_carries_bytes_both_ways_and_half_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    let host = Host::with_agent();
    let mut operation = host.start(&Request::Connect(Connect { port })).await;
    let (mut socket, _) = listener.accept().await.expect("accepted");
    assert_eq!(operation.event().await, Event::Connected);
    let mut stream = operation.0.into_inner();
    stream.write_all(b"question").await.expect("sent");
    stream.shutdown().await.expect("half-closed");
    let mut question = Vec::new();
    socket.read_to_end(&mut question).await.expect("received");
    assert_eq!(question, b"question");
    socket.write_all(b"answer").await.expect("sent");
    drop(socket);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("received");
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn connection_that_the_host_drops_is_closed_for_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    let host = Host::with_agent();
    let mut operation = host.start(&Request::Connect(Connect { port })).await;
    let (mut socket, _) = listener.accept().await.expect("accepted");
    assert_eq!(operation.event().await, Event::Connected);
    drop(operation);
    let mut rest = Vec::new();
    // A reset is as good an end as a close.
    let _ = socket.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn server_on_ipv6_only_is_found() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        eprintln!("skipped: this host has no IPv6");
        return;
    };
    let port = listener.local_addr().expect("address").port();
    let host = Host::with_agent();
    let answer = host.ask(&Request::Connect(Connect { port })).await;
    assert_eq!(answer, Event::Connected);
}

#[tokio::test]
async fn port_without_a_server_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    drop(listener);
    let host = Host::with_agent();
    let refused = host.ask(&Request::Connect(Connect { port })).await;
    let zero = host.ask(&Request::Connect(Connect { port: 0 })).await;
    assert_eq!(refusal_code(&refused), RefusalCode::ConnectionRefused);
    assert_eq!(refusal_code(&zero), RefusalCode::InvalidInput);
}

#[tokio::test]
async fn shutdown_is_acknowledged_and_ends_new_work() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let environment = Environment::of_ordinary_process();
    tokio::spawn(serve(theirs, environment.clone()));
    let host = Host::over(ours);
    assert_eq!(host.ask(&Request::Shutdown).await, Event::Done);
    environment.shutdown_requested().await;
    let outcome = host.exec(arguments(&["true"])).await;
    assert_eq!(outcome.refusal_code(), RefusalCode::ShuttingDown);
}
