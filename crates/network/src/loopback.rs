//! For tests: servers, guests and the gateway between them, all on loopback.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::event_log::Recorded;
use crate::http::{
    BoxStream, Dial, GuestConnection, HttpProxy, RequestHead, RequestPolicy, Stream,
};
use crate::{Event, EventSink, SecretSpec, Secrets, Verdict};

pub(crate) type ServerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Denies paths that begin with `/denied`.
pub(crate) struct PathPolicy;

impl RequestPolicy for PathPolicy {
    fn request(&self, request: &RequestHead) -> Verdict {
        if request.path.starts_with("/denied") || request.method == "DELETE" {
            Verdict::denied("deny /denied")
        } else {
            Verdict::allowed("open")
        }
    }
}

/// Connects to one address, and counts.
pub(crate) struct Dialler {
    address: SocketAddr,
    pub(crate) count: AtomicUsize,
}

impl Dialler {
    pub(crate) fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            count: AtomicUsize::new(0),
        })
    }
}

impl Dial for Dialler {
    fn dial(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            let stream = TcpStream::connect(self.address).await?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Returns a proxy, and what it tells.
pub(crate) fn proxy(secrets: Vec<SecretSpec>) -> (HttpProxy, Recorded) {
    let (events, records) = EventSink::for_test();
    let proxy = HttpProxy::new(Arc::new(PathPolicy), events, Secrets::new(secrets));
    (proxy, records)
}

/// A gateway for HTTP without TLS to one server. Its tasks end with the test's runtime.
pub(crate) async fn plain_gateway(
    server: SocketAddr,
    is_http2: bool,
) -> (SocketAddr, Arc<Dialler>, Recorded) {
    let (proxy, records) = proxy(Vec::new());
    let dialler = Dialler::new(server);
    let dial = Arc::clone(&dialler);
    let address = gateway(move |guest| {
        let (proxy, dial) = (proxy.clone(), Arc::clone(&dial));
        async move {
            let connection = GuestConnection {
                number: 7,
                port: 80,
            };
            let _served = proxy.serve(connection, is_http2, guest, dial).await;
        }
    });
    (address.await, dialler, records)
}

/// Accepts connections of a guest and has each served.
pub(crate) async fn gateway<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((guest, _)) = listener.accept().await {
            tokio::spawn(serve(guest));
        }
    });
    address
}

/// A server of HTTP that answers by `answer`; in HTTP/2 if it says so or TLS agrees on it.
pub(crate) async fn server<F>(
    tls: Option<TlsAcceptor>,
    is_http2: bool,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = Response<ServerBody>> + Send + 'static,
{
    gateway(move |stream| {
        let (tls, answer) = (tls.clone(), answer.clone());
        async move {
            match tls {
                None => serve_http(stream, is_http2, answer).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve_http(stream, is_http2, answer).await;
                    }
                }
            }
        }
    })
    .await
}

async fn serve_http<F>(
    stream: impl Stream,
    is_http2: bool,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<ServerBody>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let stream = TokioIo::new(stream);
    let _served = if is_http2 {
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(stream, service)
            .await
    } else {
        http1::Builder::new()
            .serve_connection(stream, service)
            .await
    };
}

/// Answers with the request: its target, headers in their order, and body.
pub(crate) async fn echo(request: Request<Incoming>) -> Response<ServerBody> {
    let (parts, body) = request.into_parts();
    let mut text = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        text += &format!("{name}: {}\n", value.to_str().expect("text"));
    }
    let body = body.collect().await.expect("whole").to_bytes();
    text += "\n";
    text += &String::from_utf8_lossy(&body);
    Response::new(whole(text))
}

pub(crate) fn whole(text: impl Into<Bytes>) -> ServerBody {
    Full::new(text.into()).boxed_unsync()
}

/// A server that keeps what it is sent, and answers each connection's first request with a fixed
/// text.
pub(crate) async fn raw_server(answer: &'static str) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let received = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&received);
    let address = gateway(move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            let mut head: Vec<u8> = Vec::new();
            let mut piece = [0; 4096];
            let mut is_answered = false;
            while let Ok(length @ 1..) = stream.read(&mut piece).await {
                kept.lock().expect("whole").extend(&piece[..length]);
                head.extend(&piece[..length]);
                if !is_answered && message_length(&head).is_some() {
                    stream.write_all(answer.as_bytes()).await.expect("sent");
                    is_answered = true;
                }
            }
        }
    });
    (address.await, received)
}

/// Returns how long the first message is, if it is there with its body.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let head_length = 4 + bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..head_length]).into_owned();
    let body_length = head.split_once("content-length: ").map(|(_, rest)| {
        let digits = rest.split("\r\n").next().unwrap_or_default();
        digits.parse::<usize>().expect("a length")
    });
    let length = head_length + body_length.unwrap_or(0);
    (bytes.len() >= length).then_some(length)
}

/// Sends bytes to an address, and returns what comes back: so many responses, or fewer if the
/// connection is closed.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8], responses: usize) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let mut whole = 0;
    for _ in 0..responses {
        while message_length(&answer[whole..]).is_none() {
            // What came before a reset counts.
            if !matches!(stream.read_buf(&mut answer).await, Ok(1..)) {
                return String::from_utf8_lossy(&answer).into_owned();
            }
        }
        whole += message_length(&answer[whole..]).expect("whole");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The part of a request's event that tests look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) status: Option<u16>,
    pub(crate) secrets: Vec<String>,
    pub(crate) rule: String,
}

/// How long something may take that is to happen at once.
const WAIT: Duration = Duration::from_secs(20);

/// Waits for the event of a request, which may come just after its response.
pub(crate) async fn told(records: &Recorded) -> Told {
    let start = Instant::now();
    let record = loop {
        match records.next() {
            Some(record) => break record,
            None if start.elapsed() < WAIT => tokio::task::yield_now().await,
            None => panic!("nothing was told in time"),
        }
    };
    let Event::Request {
        host,
        path,
        status,
        secrets,
        verdict,
        ..
    } = record.event
    else {
        panic!("another event: {record:?}");
    };
    Told {
        host,
        path,
        status,
        secrets,
        rule: verdict.rule.to_string(),
    }
}
