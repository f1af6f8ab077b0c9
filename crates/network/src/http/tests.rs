//! Guests that speak HTTP well and badly, through the proxy to real servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::loopback::{
    ServerBody, echo, exchange, listen, plain_gateway, raw_server, server, told, whole,
};

const MIB: usize = 1 << 20;

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Sends bytes through the gateway to a server that keeps what arrives.
async fn through(bytes: &[u8]) -> (String, String) {
    through_for(bytes, 1).await
}

async fn through_for(bytes: &[u8], responses: usize) -> (String, String) {
    let (server, received) = raw_server(ANSWER).await;
    let (gateway, _, _records) = plain_gateway(server, false).await;
    let answer = exchange(gateway, bytes, responses).await;
    let received = received.lock().expect("whole").clone();
    (answer, String::from_utf8(received).expect("text"))
}

fn statuses(answer: &str) -> Vec<&str> {
    answer
        .match_indices("HTTP/1.1 ")
        .map(|(at, text)| &answer[at + text.len()..][..3])
        .collect()
}

#[tokio::test]
async fn request_is_written_anew_without_fields_of_the_connection() {
    let (answer, received) = through(
        b"POST /a?b=c HTTP/1.1\nHost: A.example.\nConnection: keep-alive, X-Drop\nX-Drop: 1\n\
          Keep-Alive: 5\nProxy-Authorization: x\nTE: gzip\nX-Original-URL: /denied\n\
          X-Keep: 1\nContent-Length: 2\n\nhi",
    )
    .await;
    assert_eq!(statuses(&answer), ["200"]);
    assert_eq!(
        received,
        "POST /a?b=c HTTP/1.1\r\ncontent-length: 2\r\nx-keep: 1\r\nhost: a.example\r\n\r\nhi"
    );
}

#[tokio::test]
async fn absolute_form_becomes_a_path() {
    let (answer, received) =
        through(b"GET http://a.example/x HTTP/1.1\r\nHost: a.example:80\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["200"]);
    assert_eq!(received, "GET /x HTTP/1.1\r\nhost: a.example\r\n\r\n");
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_reach_no_server() {
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "400"),
        (
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
            "400",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
            "400",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n",
            "400",
        ),
        ("GET / HTTP/1.1\r\nHost: me@a.example\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a.example:\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n Host: a.example\r\n\r\n", "400"),
        (
            "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "400",
        ),
        (
            "GET http://a.example:81/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "400",
        ),
        (
            "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "400",
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
            "405",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "501",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\
          Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "501",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\
          Transfer-Encoding: x\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +1\r\n\r\na",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1, 1\r\n\r\na",
            "400",
        ),
        ("GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
    ] {
        let (answer, received) = through(request.as_bytes()).await;
        let status_line = answer.get(9..12).unwrap_or("none");
        assert_eq!(status_line, status, "{request:?} was answered {answer:?}");
        assert_eq!(received, "", "{request:?} went on");
    }
}

#[tokio::test]
async fn request_hidden_by_two_framings_is_judged_as_one() {
    // To a reader of Content-Length, the second request is the first one's body.
    for framing in [
        "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n",
    ] {
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: a.example\r\n{framing}\r\n0\r\n\r\n\
             GET /denied HTTP/1.1\r\nHost: a.example\r\n\r\n"
        );
        let (answer, received) = through_for(request.as_bytes(), 2).await;
        // What follows is not read at all.
        assert_eq!(statuses(&answer), ["200"], "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(!received.contains("denied"), "{received}");
        assert!(!received.contains("content-length: 60"), "{received}");
    }
}

#[tokio::test]
async fn chunks_with_bare_line_feeds_or_signs_are_refused() {
    for body in [
        "+2\r\nhi\r\n0\r\n\r\n",
        "0x2\r\nhi\r\n0\r\n\r\n",
        "2\rhi\r\n0\r\n\r\n",
    ] {
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        );
        let (_, received) = through(request.as_bytes()).await;
        // The head may be gone already; the end that makes it a request must not be.
        assert!(!received.contains("0\r\n\r\n"), "{received:?}");
    }
}

#[tokio::test]
async fn denied_request_is_told_why_and_the_connection_goes_on() {
    let server = server(None, false, echo).await;
    let (gateway, dialler, records) = plain_gateway(server, false).await;
    let answer = exchange(
        gateway,
        b"GET /denied?x HTTP/1.1\r\nHost: a.example\r\n\r\n\
          POST /a HTTP/1.1\r\nHost: a.example\r\nX-HTTP-Method-Override: delete\r\n\r\n\
          GET /b HTTP/1.1\r\nHost: b.example\r\n\r\n\
          GET /c HTTP/1.1\r\nHost: b.example\r\n\r\n",
        4,
    )
    .await;
    assert_eq!(statuses(&answer), ["403", "403", "200", "200"]);
    assert!(
        answer.contains("denied by smolvm: deny /denied\n"),
        "{answer}"
    );
    let events = [
        told(&records).await,
        told(&records).await,
        told(&records).await,
        told(&records).await,
    ];
    assert_eq!(events[0].path, "/denied");
    assert_eq!(events[0].rule, "deny /denied");
    assert_eq!(events[0].status, Some(403));
    assert_eq!(events[2].host, "b.example");
    assert_eq!(events[2].rule, "open");
    assert_eq!(events[2].status, Some(200));
    assert_eq!(dialler.count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn server_that_fails_is_a_bad_gateway_with_the_reason() {
    let (listener, closed) = listen().await;
    drop(listener);
    let (gateway, _, records) = plain_gateway(closed, false).await;
    let request = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let answer = exchange(gateway, request, 1).await;
    assert_eq!(statuses(&answer), ["502"]);
    assert!(
        answer.contains("cannot connect: Connection refused"),
        "{answer}"
    );
    assert_eq!(told(&records).await.status, Some(502));

    let (garbage, _) = raw_server("not http\r\n\r\n").await;
    let (gateway, _, _records) = plain_gateway(garbage, false).await;
    let answer = exchange(gateway, request, 1).await;
    assert_eq!(statuses(&answer), ["502"]);
    assert!(answer.contains("bad gateway: no response: "), "{answer}");
}

#[tokio::test]
async fn websocket_is_copied_both_ways() {
    let (server, received) = raw_server(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: x\r\n\r\nfrom server",
    )
    .await;
    let (gateway, _, records) = plain_gateway(server, false).await;
    let mut guest = TcpStream::connect(gateway).await.expect("connected");
    let upgrade = b"GET /socket HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
    guest.write_all(upgrade).await.expect("sent");
    let mut answer = String::new();
    while !answer.ends_with("from server") {
        let mut piece = [0; 1024];
        let length = guest.read(&mut piece).await.expect("read");
        assert_ne!(length, 0, "{answer}");
        answer += &String::from_utf8_lossy(&piece[..length]);
    }
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("sec-websocket-accept: x\r\n"), "{answer}");
    assert_eq!(told(&records).await.status, Some(101));

    guest.write_all(b"from guest").await.expect("sent");
    guest.shutdown().await.expect("ended");
    let mut rest = Vec::new();
    guest.read_to_end(&mut rest).await.expect("ended");
    let received = received.lock().expect("whole").clone();
    assert!(received.ends_with(b"from guest"));
}

#[tokio::test]
async fn upgrade_to_other_protocols_is_not_asked_for() {
    let (answer, received) = through(
        b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
          Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    )
    .await;
    assert_eq!(statuses(&answer), ["200"]);
    assert_eq!(received, "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n");
}

#[tokio::test]
async fn switch_that_was_not_asked_for_is_a_bad_gateway() {
    let (server, _) = raw_server(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    )
    .await;
    let (gateway, _, _records) = plain_gateway(server, false).await;
    let answer = exchange(gateway, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 1).await;
    assert_eq!(statuses(&answer), ["502"]);
}

type Sender<T> = hyper::client::conn::http1::SendRequest<T>;

async fn http1_guest(gateway: std::net::SocketAddr) -> Sender<ServerBody> {
    let stream = TcpStream::connect(gateway).await.expect("connected");
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("ready");
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<ServerBody> {
    Request::get(path)
        .header("host", "a.example")
        .body(whole(""))
        .expect("a request")
}

#[tokio::test]
async fn events_of_a_server_arrive_one_by_one() {
    let (events, source) = mpsc::channel::<Bytes>(1);
    let source = Arc::new(tokio::sync::Mutex::new(Some(source)));
    let server = server(None, false, move |_request| {
        let source = Arc::clone(&source);
        async move {
            let source = source.lock().await.take().expect("asked once");
            let frames = stream::unfold(source, |mut source| async {
                let event = source.recv().await?;
                Some((Ok(Frame::data(event)), source))
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
    })
    .await;
    let (gateway, _, _records) = plain_gateway(server, false).await;
    let mut guest = http1_guest(gateway).await;
    let response = guest.send_request(get("/events")).await.expect("answered");
    let mut body = response.into_body();
    for number in 0..3 {
        // The next is only sent when this one has arrived.
        let event = Bytes::from(format!("data: {number}\n\n"));
        events.send(event.clone()).await.expect("taken");
        let frame = body.frame().await.expect("more").expect("whole");
        assert_eq!(frame.into_data().expect("data"), event);
    }
}

/// A body of 100 MiB that counts what was taken of it.
fn large_body(taken: Arc<AtomicUsize>) -> ServerBody {
    let pieces = stream::iter(0..100 * 16).map(move |_| {
        taken.fetch_add(MIB / 16, Ordering::Relaxed);
        Ok(Frame::data(Bytes::from_static(&[7; MIB / 16])))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Waits until a count stays the same: nothing tells that a sender has stopped.
async fn settled(count: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    loop {
        let now = count.load(Ordering::Relaxed);
        if now == before {
            return now;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_stops_the_server_and_loses_nothing() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let server = server(None, false, move |_request| {
        let body = large_body(Arc::clone(&counted));
        async { Response::new(body) }
    })
    .await;
    let (gateway, _, _records) = plain_gateway(server, false).await;
    let mut guest = http1_guest(gateway).await;
    let response = guest.send_request(get("/")).await.expect("answered");
    // What is under way is in buffers of sockets, which the kernel bounds, and of the gateway.
    let under_way = settled(&taken).await;
    assert!(under_way < 32 * MIB, "{under_way} bytes are buffered");
    let mut body = response.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.expect("whole").into_data().expect("data").len();
    }
    assert_eq!(received, 100 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_server_stops_the_guest_and_gets_everything() {
    let (start, started) = tokio::sync::watch::channel(false);
    let server = server(None, false, move |request: Request<Incoming>| {
        let mut started = started.clone();
        async move {
            started
                .wait_for(|is_started| *is_started)
                .await
                .expect("started");
            let mut body = request.into_body();
            let mut received = 0;
            while let Some(frame) = body.frame().await {
                received += frame.expect("whole").into_data().expect("data").len();
            }
            Response::new(whole(received.to_string()))
        }
    })
    .await;
    let (gateway, _, _records) = plain_gateway(server, false).await;
    let mut guest = http1_guest(gateway).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let request = get("/").map(|_| large_body(Arc::clone(&taken)));
    let (mut parts, body) = request.into_parts();
    parts.method = hyper::Method::POST;
    let answered = tokio::spawn(guest.send_request(Request::from_parts(parts, body)));
    let under_way = settled(&taken).await;
    assert!(under_way < 32 * MIB, "{under_way} bytes are buffered");
    start.send(true).expect("waited for");
    let response = answered.await.expect("joined").expect("answered");
    let body = response.into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes(), (100 * MIB).to_string());
}

#[tokio::test]
async fn http2_goes_on_as_http2_with_its_trailers() {
    let server = server(None, true, |request: Request<Incoming>| async move {
        let authority = request.uri().authority().map(ToString::to_string);
        assert_eq!(authority.as_deref(), Some("a.example"));
        assert_eq!(request.headers()["te"], "trailers");
        let body = request.into_body().collect().await.expect("whole");
        let trailers = body.trailers().cloned().expect("some");
        let body = Full::new(body.to_bytes());
        Response::new(
            body.with_trailers(std::future::ready(Some(Ok(trailers))))
                .boxed_unsync(),
        )
    })
    .await;
    let (gateway, dialler, records) = plain_gateway(server, true).await;
    let stream = TcpStream::connect(gateway).await.expect("connected");
    let (guest, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("ready");
    tokio::spawn(connection);
    let requests = (0..50).map(|number| {
        let mut guest = guest.clone();
        let trailers = HeaderMap::from_iter([(
            "grpc-status".parse().expect("a name"),
            HeaderValue::from(number),
        )]);
        let body = Full::new(Bytes::from("hello")).with_trailers(std::future::ready(Some(Ok::<
            _,
            std::convert::Infallible,
        >(
            trailers,
        ))));
        let request = Request::post("http://a.example/call")
            .header("te", "trailers")
            .body(body)
            .expect("a request");
        async move {
            let response = guest.send_request(request).await.expect("answered");
            let body = response.into_body().collect().await.expect("whole");
            assert_eq!(
                body.trailers().expect("some")["grpc-status"],
                HeaderValue::from(number)
            );
            assert_eq!(body.to_bytes(), "hello");
        }
    });
    futures::future::join_all(requests).await;
    assert_eq!(told(&records).await.host, "a.example");
    assert_eq!(dialler.count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn http2_request_whose_host_differs_is_refused() {
    let server = server(None, true, echo).await;
    let (gateway, dialler, _records) = plain_gateway(server, true).await;
    let stream = TcpStream::connect(gateway).await.expect("connected");
    let (mut guest, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("ready");
    tokio::spawn(connection);
    let request = Request::get("http://a.example/")
        .header("host", "b.example")
        .body(whole(""))
        .expect("a request");
    let response = guest.send_request(request).await.expect("answered");
    assert_eq!(response.status(), 400);
    assert_eq!(dialler.count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn guest_that_leaves_is_told_without_a_status() {
    let (asked, mut was_asked) = mpsc::channel::<()>(1);
    let server = server(None, false, move |_request| {
        let asked = asked.clone();
        async move {
            asked.send(()).await.expect("waited for");
            std::future::pending().await
        }
    })
    .await;
    let (gateway, _, records) = plain_gateway(server, false).await;
    let mut guest = TcpStream::connect(gateway).await.expect("connected");
    let request = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n";
    guest.write_all(request).await.expect("sent");
    was_asked.recv().await.expect("asked");
    guest.set_zero_linger().expect("set");
    drop(guest);
    let event = told(&records).await;
    assert_eq!((event.path.as_str(), event.status), ("/a", None));
}

#[tokio::test]
async fn connection_that_its_server_closed_is_replaced() {
    // Closes each connection after its first response, without saying so.
    let server = crate::loopback::gateway(|mut stream| async move {
        let mut piece = [0; 4096];
        let _length = stream.read(&mut piece).await.expect("read");
        stream.write_all(ANSWER.as_bytes()).await.expect("sent");
    })
    .await;
    let (gateway, dialler, _records) = plain_gateway(server, false).await;
    let mut guest = http1_guest(gateway).await;
    for _ in 0..5 {
        let response = guest.send_request(get("/")).await.expect("answered");
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.expect("whole");
        assert_eq!(body.to_bytes(), "ok");
        guest.ready().await.expect("open");
    }
    assert_eq!(dialler.count.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn expectation_is_met_by_the_gateway() {
    let (server, received) = raw_server(ANSWER).await;
    let (gateway, _, _records) = plain_gateway(server, false).await;
    let mut guest = TcpStream::connect(gateway).await.expect("connected");
    let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\
        Expect: 100-continue\r\n\r\n";
    guest.write_all(head).await.expect("sent");
    let mut answer = [0; 25];
    guest.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    guest.write_all(b"hi").await.expect("sent");
    let mut status = [0; 15];
    guest.read_exact(&mut status).await.expect("answered");
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    let received = String::from_utf8(received.lock().expect("whole").clone()).expect("text");
    assert!(
        received.ends_with("\r\n\r\nhi") && !received.contains("expect"),
        "{received}"
    );
}
