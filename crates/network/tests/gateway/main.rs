//! The gateway, between a guest's stack and servers on this machine's loopback.

mod guest;
mod network;
mod peers;

use std::io;
use std::net::SocketAddr;

use network::Network;
use smoltcp::socket::tcp::State;
use smoltcp::socket::udp;
use smolvm_network::{Cause, Event, Limits, Record};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// What lets the guest reach the servers of these tests, which are on the host's loopback.
const LOOPBACK: &str = "allow 127.0.0.0/8/any";

async fn server<F: Future<Output = io::Result<()>> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

async fn echo_server() -> SocketAddr {
    server(|mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await?;
        writer.shutdown().await
    })
    .await
}

/// An address of the host's loopback where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    listener.local_addr().expect("address")
}

#[tokio::test]
async fn bytes_come_back_whole_through_a_half_closed_connection() {
    let server = echo_server().await;
    let mut network = Network::new("restricted", &[LOOPBACK], Limits::default());
    let guest = &mut network.guest;
    let handle = guest.connect(server);
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let (mut written, mut received) = (0, Vec::new());
    guest
        .until(|guest| {
            let socket = guest.tcp(handle);
            if socket.can_send() && written < sent.len() {
                written += socket.send_slice(&sent[written..]).expect("open");
                if written == sent.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                let all = |bytes: &mut [u8]| (bytes.len(), received.extend_from_slice(bytes));
                socket.recv(all).expect("open");
            }
            (written == sent.len() && !socket.is_active()).then_some(())
        })
        .await;
    assert!(received == sent, "{} of {}", received.len(), sent.len());

    let (sent_bytes, received_bytes, reason) = network.end_of_connection().await;
    assert_eq!((sent_bytes, received_bytes), (3_000_000, 3_000_000));
    assert_eq!(reason, "closed");
}

#[tokio::test]
async fn refusal_by_the_server_is_one_for_the_guest() {
    let mut network = Network::new("restricted", &[LOOPBACK], Limits::default());
    let to = nobody().await;
    assert_eq!(network.guest.connected(to).await, State::Closed);
    let (_, _, reason) = network.end_of_connection().await;
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn denied_destination_is_refused_and_its_rule_is_told() {
    let server = echo_server().await;
    let rule = format!("deny {server}");
    let mut network = Network::new("open", &[LOOPBACK, &rule], Limits::default());
    assert_eq!(network.guest.connected(server).await, State::Closed);
    let verdict = network.verdict().await;
    assert!(!verdict.is_allowed);
    assert_eq!(&*verdict.rule, rule);
}

#[tokio::test]
async fn loopback_of_the_host_is_denied_unless_it_is_allowed() {
    let server = echo_server().await;
    let mut network = Network::new("open", &[], Limits::default());
    assert_eq!(network.guest.connected(server).await, State::Closed);
    let verdict = network.verdict().await;
    assert!(verdict.rule.starts_with("built-in: "), "{verdict:?}");
}

#[tokio::test]
async fn gateway_offers_nothing_but_dns() {
    let mut network = Network::new("open", &["allow 0.0.0.0/0/any"], Limits::default());
    let to = format!("{}:22", guest::GATEWAY).parse().expect("address");
    assert_eq!(network.guest.connected(to).await, State::Closed);
    let verdict = network.verdict().await;
    assert_eq!(
        &*verdict.rule,
        "built-in: the gateway offers nothing but DNS"
    );
}

#[tokio::test]
async fn reset_by_the_server_reaches_the_guest() {
    let server = server(|stream| async move {
        stream.readable().await?;
        stream.set_zero_linger()
    })
    .await;
    let mut network = Network::new("restricted", &[LOOPBACK], Limits::default());
    let guest = &mut network.guest;
    let handle = guest.connect(server);
    guest
        .until(|guest| {
            let socket = guest.tcp(handle);
            if socket.can_send() && socket.send_queue() == 0 {
                socket.send_slice(b"hello").expect("open");
            }
            (socket.state() == State::Closed).then_some(())
        })
        .await;
    let (_, _, reason) = network.end_of_connection().await;
    assert!(reason.contains("reset"), "{reason}");
}

#[tokio::test]
async fn guest_that_goes_is_told_to_the_server() {
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let server = server(move |mut stream| {
        let told = told.clone();
        async move {
            let copied = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            told.send(copied.map_err(|error| error.kind()))
                .await
                .expect("the test waits");
            Ok(())
        }
    })
    .await;
    let mut network = Network::new("restricted", &[LOOPBACK], Limits::default());
    let guest = &mut network.guest;
    let handle = guest.connect(server);
    guest
        .until(|guest| {
            guest
                .tcp(handle)
                .may_send()
                .then(|| guest.tcp(handle).abort())
        })
        .await;
    let copied = guest.until(|_| heard.try_recv().ok()).await;
    assert_eq!(copied, Err(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_counted() {
    let server = echo_server().await;
    let limits = Limits {
        max_flows: 2,
        ..Limits::default()
    };
    let mut network = Network::new("restricted", &[LOOPBACK], limits);
    assert_eq!(network.guest.connected(server).await, State::Established);
    assert_eq!(network.guest.connected(server).await, State::Established);
    assert_eq!(network.guest.connected(server).await, State::Closed);
    let dropped = network.dropped("too many connections at once").await;
    assert_eq!(dropped, 1);
}

#[tokio::test]
async fn two_hundred_connections_at_once_are_served() {
    let server = echo_server().await;
    let mut network = Network::new("restricted", &[LOOPBACK], Limits::default());
    let guest = &mut network.guest;
    let handles: Vec<_> = (0..200).map(|_| guest.connect(server)).collect();
    let mut answered = vec![false; handles.len()];
    guest
        .until(|guest| {
            for (handle, answered) in handles.iter().zip(&mut answered) {
                let socket = guest.tcp(*handle);
                if socket.can_send() && socket.send_queue() == 0 && !*answered {
                    socket.send_slice(b"x").expect("open");
                }
                *answered |= socket.can_recv();
            }
            answered.iter().all(|answered| *answered).then_some(())
        })
        .await;
}

#[tokio::test]
async fn frames_of_somebody_else_are_dropped_and_counted() {
    let mut network = Network::new("open", &[LOOPBACK], Limits::default());
    let mut frame = guest::datagram_frame();
    frame[11] ^= 1; // The last byte of the source's hardware address.
    network.guest.send_frame(&frame).await;
    assert_eq!(network.dropped("spoofed hardware address").await, 1);

    let mut network = Network::new("open", &[LOOPBACK], Limits::default());
    let mut frame = guest::datagram_frame();
    frame[14 + 15] ^= 1; // The last byte of the source's IPv4 address.
    network.guest.send_frame(&frame).await;
    assert_eq!(network.dropped("spoofed source address").await, 1);
}

#[tokio::test]
async fn datagrams_of_all_sizes_come_back() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let server = socket.local_addr().expect("address");
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&buffer[..length], from).await.expect("send");
        }
    });
    let mut network = Network::new("restricted", &[LOOPBACK], Limits::default());
    let guest = &mut network.guest;
    let handle = guest.udp();
    for size in [0, 1, 1472, 1473, 9000, usize::from(guest::MTU) - 28] {
        let remote = (smoltcp::wire::IpAddress::from(server.ip()), server.port());
        let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
        socket.send_slice(&vec![b'x'; size], remote).expect("room");
        let answer = guest
            .until(|guest| {
                let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
                socket.recv().ok().map(|(payload, _)| payload.len())
            })
            .await;
        assert_eq!(answer, size);
    }
}

#[tokio::test]
async fn ping_to_the_gateway_is_answered() {
    let mut network = Network::new("off", &[], Limits::default());
    for gateway in [guest::GATEWAY, "fd73:6d6f:6c76::1"] {
        let answer = network.guest.ping(gateway.parse().expect("address")).await;
        assert_eq!(answer, b"ping");
    }
}

/// Whether this host lets its users send pings (icmp(7), `ping_group_range`).
fn has_ping_sockets() -> bool {
    let (domain, kind) = (socket2::Domain::IPV4, socket2::Type::DGRAM);
    socket2::Socket::new(domain, kind, Some(socket2::Protocol::ICMPV4)).is_ok()
}

#[tokio::test]
async fn pings_come_back_or_are_told_to_be_impossible() {
    let mut network = Network::new("restricted", &[LOOPBACK], Limits::default());
    let loopback = "127.0.0.1".parse().expect("address");
    if has_ping_sockets() {
        assert_eq!(network.guest.ping(loopback).await, b"ping");
    } else {
        network.guest.send_ping(loopback);
        let (_, _, reason) = network.end_of_connection().await;
        assert!(
            reason.starts_with("the host cannot send pings: "),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn connection_does_not_wait_for_its_cause_and_its_record_does() {
    let server = echo_server().await;
    let (mut network, mut asked) = Network::asking("restricted", &[LOOPBACK]);
    assert_eq!(network.guest.connected(server).await, State::Established);
    let question = asked.try_recv().expect("asked");
    assert_eq!(question.destination, server);
    question.answer(curl());
    let cause = network.recorded(connection_cause).await;
    assert_eq!(cause, Some(curl()));
}

#[tokio::test]
async fn refusal_waits_until_it_is_known_who_was_refused() {
    let denied = nobody().await;
    let (mut network, mut asked) = Network::asking("restricted", &[]);
    let handle = network.guest.connect(denied);
    let question = network.guest.until(|_| asked.try_recv().ok()).await;
    assert_eq!(network.guest.tcp(handle).state(), State::SynSent);
    question.answer(curl());
    let is_over = |guest: &mut guest::Guest| (!guest.tcp(handle).is_active()).then_some(());
    network.guest.until(is_over).await;
    assert_eq!(network.recorded(connection_cause).await, Some(curl()));
}

#[tokio::test]
async fn refusal_of_a_guest_that_does_not_answer_comes_all_the_same() {
    let denied = nobody().await;
    let (mut network, mut asked) = Network::asking("restricted", &[]);
    assert_eq!(network.guest.connected(denied).await, State::Closed);
    let _unanswered = asked.try_recv().expect("asked");
    assert_eq!(network.recorded(connection_cause).await, None);
}

fn connection_cause(record: Record) -> Option<Option<Cause>> {
    matches!(record.event, Event::Connection { .. }).then_some(record.cause)
}

fn curl() -> Cause {
    Cause {
        exec: 3,
        pid: 211,
        program: "curl".to_owned(),
        job: None,
        has_ended: false,
    }
}
