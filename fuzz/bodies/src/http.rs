//! HTTP between a guest and a server, both hostile, through the proxy that judges requests and puts
//! secrets in.
//!
//! ```text
//!   1 byte          the guest's bytes    "\n====\n"    the server's bytes
//!   connection: without TLS in HTTP/1 or HTTP/2, or TLS to the secret's host or to another
//! ```
//!
//! There are two secrets, `KEY` for [`KEY_HOST`] and `OTHER` for [`OTHER_HOST`]. So that an input
//! need not spell what is long, single bytes stand for placeholders and values.
//!
//! * A value is sent to its own host only, in TLS only.
//! * A placeholder is sent nowhere but to its secret's host. What is compressed and what follows an
//!   upgrade is not looked into, as `secrets` says.
//! * What the secret's host answers does not have its value in it, with the same exceptions.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use smolvm_network::{
    Authority, BoxStream, Dial, GuestConnection, HttpProxy, HttpRules, Interceptor, Name,
    RequestHead, RequestPolicy, SecretSpec, Secrets, Stream, UpstreamTls, Verdict,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::runtime;

const KEY_HOST: &str = "api.example.com";
const OTHER_HOST: &str = "other.example.com";

const KEY_PLACEHOLDER: &str = "smolvm-secret-key-0123456789abcdef0123456789abcdef";
const OTHER_PLACEHOLDER: &str = "smolvm-secret-other-0123456789abcdef0123456789abcdef";

/// Values that are spelled alike everywhere but in the name of a header, which has small letters: a
/// server that makes a name of the value hands it out, which its host is trusted not to do.
const KEY_VALUE: &str = "SK-live-0123456789";
const OTHER_VALUE: &str = "SK-live-9876543210";

/// Bytes of an input that stand for texts.
const ABBREVIATIONS: [(u8, &str); 3] =
    [(1, KEY_PLACEHOLDER), (2, OTHER_PLACEHOLDER), (3, KEY_VALUE)];

/// Between what the guest sends and what the server answers.
const SEPARATOR: &[u8] = b"\n====\n";

/// How long a server waits for more; and how long all may go on that the two sides began.
const SERVER_TIME: Duration = Duration::from_secs(1);
const EXCHANGE_TIME: Duration = Duration::from_secs(600);

/// Bytes between two sides.
const PIPE_BYTES: usize = 1 << 16;

/// How the guest connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http1,
    Http2,
    TlsToKey,
    TlsToOther,
}

const KINDS: [Kind; 4] = [Kind::Http1, Kind::Http2, Kind::TlsToKey, Kind::TlsToOther];

/// Has the guest send its part, and the server answer with its own.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Some((&kind, bytes)) = input.split_first() else {
        return;
    };
    let kind = KINDS[usize::from(kind) % KINDS.len()];
    let middle = bytes
        .windows(SEPARATOR.len())
        .position(|window| window == SEPARATOR);
    let (guest, server) = match middle {
        Some(middle) => (&bytes[..middle], &bytes[middle + SEPARATOR.len()..]),
        None => (
            bytes,
            &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..],
        ),
    };
    if guest.contains(&3) {
        // The guest does not know the value.
        return;
    }
    let (guest, server) = (expand(guest), expand(server));
    let exchange = runtime::without_sockets(async {
        let exchange = exchange(kind, &guest, server.clone());
        timeout(EXCHANGE_TIME, exchange).await
    });
    let exchange = exchange.expect("what both sides have ended ends");
    exchange.check(kind, &guest, &server);
}

fn expand(bytes: &[u8]) -> Vec<u8> {
    let mut expanded = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match ABBREVIATIONS.iter().find(|(short, _)| short == byte) {
            Some((_, text)) => expanded.extend(text.as_bytes()),
            None => expanded.push(*byte),
        }
    }
    expanded
}

/// What came out on both sides.
#[derive(Debug)]
struct Exchange {
    /// What servers were sent, outside of TLS.
    sent: Vec<u8>,
    /// What the guest was answered, outside of TLS.
    answered: Vec<u8>,
}

impl Exchange {
    fn check(&self, kind: Kind, guest: &[u8], server: &[u8]) {
        let is_key_host = kind == Kind::TlsToKey;
        let is_other_host = kind == Kind::TlsToOther;
        let sent_escapes = is_not_looked_into(guest);
        for (text, may_be_sent) in [
            (KEY_VALUE, is_key_host),
            (OTHER_VALUE, is_other_host),
            (KEY_PLACEHOLDER, is_key_host || sent_escapes),
            (OTHER_PLACEHOLDER, is_other_host || sent_escapes),
        ] {
            assert!(
                may_be_sent || !contains(&self.sent, text),
                "{text} is sent by {kind:?}: {}",
                self.sent.escape_ascii()
            );
        }
        let may_be_told = !is_key_host || is_not_looked_into(server) || sent_escapes;
        assert!(
            may_be_told || !contains(&self.answered, KEY_VALUE),
            "the value is told: {}",
            self.answered.escape_ascii()
        );
    }
}

/// Whether a side asks for what nobody looks into.
fn is_not_looked_into(bytes: &[u8]) -> bool {
    let lower = bytes.to_ascii_lowercase();
    contains(&lower, "content-encoding") || contains(&lower, "upgrade")
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

async fn exchange(kind: Kind, guest: &[u8], answer: Vec<u8>) -> Exchange {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let dial = Arc::new(Servers {
        is_tls: matches!(kind, Kind::TlsToKey | Kind::TlsToOther),
        answer: answer.into(),
        sent: Arc::clone(&sent),
    });
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let proxy = HttpProxy::new(Arc::new(Everything), runtime::events(), WORLD.secrets());
    let answered = match kind {
        Kind::Http1 | Kind::Http2 => {
            let is_http2 = kind == Kind::Http2;
            let served = proxy.serve(connection(80), is_http2, theirs, dial);
            let (_ended, answered) = tokio::join!(served, speak(ours, guest));
            answered
        }
        Kind::TlsToKey => tls(&proxy, dial, KEY_HOST, (ours, theirs), guest).await,
        Kind::TlsToOther => tls(&proxy, dial, OTHER_HOST, (ours, theirs), guest).await,
    };
    drop(proxy);
    let sent = std::mem::take(&mut *sent.lock().expect("whole"));
    Exchange { sent, answered }
}

async fn tls(
    proxy: &HttpProxy,
    dial: Arc<Servers>,
    host: &str,
    (ours, theirs): (DuplexStream, DuplexStream),
    guest: &[u8],
) -> Vec<u8> {
    let name = Name::from_ascii(host).expect("a name");
    let interceptor = WORLD.interceptor.clone();
    let served = interceptor.serve(proxy, connection(443), name, theirs, dial);
    let spoken = async {
        let server = ServerName::try_from(host.to_owned()).expect("a name");
        let stream = WORLD.guest.connect(server, ours).await;
        speak(stream.expect("the authority is trusted"), guest).await
    };
    tokio::join!(served, spoken).1
}

fn connection(port: u16) -> GuestConnection {
    GuestConnection { number: 1, port }
}

/// Sends all bytes, and returns what is answered until the other side ends.
async fn speak(stream: impl Stream, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut answered = Vec::new();
    let write = async {
        let _closed = writer.write_all(bytes).await;
        let _closed = writer.shutdown().await;
    };
    // What came before a stream that is cut counts.
    let (_cut, ()) = tokio::join!(reader.read_to_end(&mut answered), write);
    answered
}

/// Allows every request that HTTP rules, of which there is one, do not deny.
struct Everything;

impl RequestPolicy for Everything {
    fn request(&self, request: &RequestHead) -> Verdict {
        let ruled = WORLD.rules.request(request);
        ruled.unwrap_or_else(|| Verdict::allowed("everything"))
    }
}

/// Servers that all answer the same.
struct Servers {
    is_tls: bool,
    answer: Arc<[u8]>,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Dial for Servers {
    fn dial(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (answer, sent) = (Arc::clone(&self.answer), Arc::clone(&self.sent));
        if self.is_tls {
            tokio::spawn(async move {
                if let Ok(stream) = WORLD.server.accept(theirs).await {
                    serve(stream, &answer, &sent).await;
                }
            });
        } else {
            tokio::spawn(async move { serve(theirs, &answer, &sent).await });
        }
        async move { Ok(Box::new(ours) as BoxStream) }.boxed()
    }
}

/// Keeps what is sent, answers once something is, and ends when nothing more comes.
async fn serve(mut stream: impl Stream, answer: &[u8], sent: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    let mut is_answered = false;
    while let Ok(Ok(length @ 1..)) = timeout(SERVER_TIME, stream.read(&mut piece)).await {
        sent.lock().expect("whole").extend(&piece[..length]);
        if !is_answered {
            let _closed = stream.write_all(answer).await;
            let _closed = stream.flush().await;
            is_answered = true;
        }
    }
}

/// What is made once: keys take longer than an exchange.
struct World {
    interceptor: Interceptor,
    guest: TlsConnector,
    server: TlsAcceptor,
    rules: HttpRules,
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

impl World {
    fn new() -> Self {
        let authority = Authority::new().expect("an authority");
        let trusted = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.expect("PEM")).expect("a certificate");
        let guest = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let names = [KEY_HOST, OTHER_HOST].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a pair");
        let tls = UpstreamTls::with_only(vec![made.cert.der().clone()]).expect("a root");
        let rule = "GET,POST *.example.com/v1/*".parse().expect("a rule");
        Self {
            interceptor: Interceptor::new(authority, tls),
            guest: TlsConnector::from(Arc::new(guest)),
            server: TlsAcceptor::from(Arc::new(server)),
            rules: HttpRules::new(vec![rule]),
        }
    }

    fn secrets(&self) -> Secrets {
        let secret = |name, placeholder, value, host: &str| {
            let host = host.parse().expect("a name");
            SecretSpec::with_placeholder(name, placeholder, value, vec![host]).expect("legal")
        };
        Secrets::new(vec![
            secret("key", KEY_PLACEHOLDER, KEY_VALUE, KEY_HOST),
            secret("other", OTHER_PLACEHOLDER, OTHER_VALUE, OTHER_HOST),
        ])
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const REQUESTS: [&[u8]; 7] = [
        b"GET /v1/a?b=c HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer \x01\r\n\r\n",
        b"GET /v1/\x01/\x02 HTTP/1.1\r\nHost: HOST\r\nX-Key: \x02\r\n\r\n",
        b"POST /v1/b HTTP/1.1\r\nHost: HOST\r\nContent-Length: 50\r\n\r\n\x01",
        b"POST /v1/c HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n\
          34\r\n\x02\r\n2\r\nhi\r\n0\r\nX-Trailer: \x01\r\n\r\n",
        b"GET http://HOST/v1/d HTTP/1.1\r\nHost: HOST\r\n\r\n\
          GET /v1/../e HTTP/1.1\r\nHost: HOST\r\nX-HTTP-Method-Override: DELETE\r\n\r\n",
        b"GET /v1/f HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi",
        b"POST /v1/g HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    ];
    const ANSWERS: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 18\r\nx-echo: \x03\r\n\r\n\x03",
        b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n12\r\n\x03\r\n0\r\nx-t: \x03\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi",
    ];
    let mut seeds = Vec::new();
    for (kind, host) in [(0, "a.example"), (2, KEY_HOST), (3, OTHER_HOST)] {
        let texts = REQUESTS.map(|request| {
            let text = String::from_utf8_lossy(request).replace("HOST", host);
            text.replace("http:", if kind == 0 { "http:" } else { "https:" })
        });
        for (index, request) in texts.iter().enumerate() {
            let answer = ANSWERS.get(index % 4).copied().unwrap_or(OK);
            seeds.push([&[kind], request.as_bytes(), SEPARATOR, answer].concat());
        }
    }
    seeds.push(
        [
            &[1],
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        ]
        .concat(),
    );
    seeds
}
