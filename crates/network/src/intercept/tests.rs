//! Real clients and servers of TLS, with the gateway between them.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::event_log::Recorded;
use crate::loopback::{
    Dialler, ServerBody, Told, echo, gateway, listen, proxy, server, told, whole,
};
use crate::{Inspector, Name, NamePattern, SecretSpec, Shown};

const VALUE: &str = "sk-live-0123456789";

const HOST: &str = "api.example.com";

fn host() -> Name {
    HOST.parse().expect("a name")
}

fn secret() -> SecretSpec {
    SecretSpec::new("KEY", VALUE, vec![NamePattern::Exact(host())]).expect("a secret")
}

/// Returns TLS of a server with an authority of its own, and that authority's certificate.
fn server_tls(host: &str, alpn: &[&[u8]]) -> (TlsAcceptor, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = rcgen::CertifiedIssuer::self_signed(parameters, key).expect("signed");
    let leaf_key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new([host.to_owned()])
        .expect("a name")
        .signed_by(&leaf_key, &root)
        .expect("signed");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into(),
        )
        .expect("a pair");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), root.der().clone())
}

/// A gateway that intercepts everything, to a server that echoes.
struct Setup {
    gateway: SocketAddr,
    dialler: Arc<Dialler>,
    records: Recorded,
    /// The certificate that the guest trusts.
    authority: String,
    secret: SecretSpec,
}

/// Sets up a gateway to a server with this name and these protocols.
async fn setup(server_name: &str, alpn: &[&[u8]]) -> Setup {
    let (tls, root) = server_tls(server_name, alpn);
    let server = server(Some(tls), false, echo).await;
    setup_to(server, root).await
}

async fn setup_to(server: SocketAddr, root: CertificateDer<'static>) -> Setup {
    let secret = secret();
    let (proxy, records) = proxy(vec![secret.clone()]);
    let authority = Authority::new().expect("an authority");
    let certificate = authority.certificate_pem().to_owned();
    let tls = UpstreamTls::with_only(vec![root]).expect("a root");
    let interceptor = Interceptor::new(authority, tls);
    let dialler = Dialler::new(server);
    let dial = Arc::clone(&dialler);
    let gateway = gateway(move |guest| {
        let (interceptor, proxy, dial) = (interceptor.clone(), proxy.clone(), Arc::clone(&dial));
        async move {
            let host = host_of(&guest).await;
            let connection = GuestConnection {
                number: 1,
                port: 443,
            };
            let _served = interceptor
                .serve(&proxy, connection, host, guest, dial)
                .await;
        }
    })
    .await;
    Setup {
        gateway,
        dialler,
        records,
        authority: certificate,
        secret,
    }
}

/// Returns the name that a client's hello shows, which is left to be read.
async fn host_of(guest: &TcpStream) -> Name {
    let mut seen = vec![0; 16 * 1024];
    loop {
        let length = guest.peek(&mut seen).await.expect("open");
        match Inspector::default().push(&seen[..length]) {
            Some(Shown::Tls(hello)) => return hello.name.expect("a name"),
            Some(other) => panic!("no TLS: {other:?}"),
            // The rest of the hello is on its way.
            None => tokio::task::yield_now().await,
        }
    }
}

impl Setup {
    /// Runs curl as a guest would, and returns what it prints.
    async fn curl(&self, arguments: &[&str]) -> (bool, String) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let roots = directory.path().join("authority.pem");
        std::fs::write(&roots, &self.authority).expect("written");
        let output = tokio::process::Command::new("curl")
            .args(["--silent", "--show-error", "--include", "--max-time", "20"])
            .arg("--cacert")
            .arg(roots)
            .arg("--connect-to")
            .arg(format!("::127.0.0.1:{}", self.gateway.port()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("curl is installed");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8(text).expect("text"),
        )
    }

    /// Connects as a guest does that trusts the authority.
    async fn connect(&self, name: &str, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let root = CertificateDer::from_pem_slice(self.authority.as_bytes()).expect("PEM");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(self.gateway).await.expect("connected");
        let name = name.to_owned().try_into().expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .expect("trusted")
    }

    /// Sends a request of HTTP/1 and returns its response.
    async fn send(&self, request: Request<ServerBody>) -> (u16, String) {
        let stream = self.connect(HOST, &[]).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("ready");
        tokio::spawn(connection);
        let response = sender.send_request(request).await.expect("answered");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("whole");
        let body = String::from_utf8(body.to_bytes().to_vec()).expect("text");
        (status, body)
    }
}

fn masked() -> String {
    "*".repeat(VALUE.len())
}

#[tokio::test]
async fn curl_gets_its_secret_sent_in_every_version() {
    for (guest, server) in [
        ("--http1.1", &[ALPN_HTTP2, ALPN_HTTP1][..]),
        ("--http2", &[ALPN_HTTP2, ALPN_HTTP1]),
        ("--http2", &[ALPN_HTTP1]),
        ("--http2", &[]),
    ] {
        let setup = setup(HOST, server).await;
        let header = format!("Authorization: Bearer {}", setup.secret.placeholder());
        let url = format!("https://{HOST}/v1?key={}", setup.secret.placeholder());
        let (is_fine, output) = setup.curl(&[guest, "-H", &header, &url]).await;
        assert!(is_fine, "{output}");
        let version = if guest == "--http2" {
            "HTTP/2 200"
        } else {
            "HTTP/1.1 200 OK"
        };
        assert!(output.starts_with(version), "{output}");
        // The server saw the value and echoed it, which the guest must not see.
        assert!(!output.contains(VALUE), "{output}");
        assert!(
            output.contains(&format!("authorization: Bearer {}\n", masked())),
            "{output}"
        );
        assert!(
            output.contains(&format!("/v1?key={}\n", masked())),
            "{output}"
        );
        assert_eq!(
            told(&setup.records).await,
            Told {
                host: HOST.to_owned(),
                path: "/v1".to_owned(),
                status: Some(200),
                secrets: vec!["KEY".to_owned()],
                rule: "open".to_owned(),
            }
        );
    }
}

#[tokio::test]
async fn many_requests_share_one_connection_to_the_server() {
    let setup = setup(HOST, &[ALPN_HTTP2]).await;
    let stream = setup.connect(HOST, &[ALPN_HTTP2]).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("ready");
    tokio::spawn(connection);
    let requests = (0..50).map(|_| {
        let mut sender = sender.clone();
        let request = Request::get(format!("https://{HOST}/"))
            .body(whole(""))
            .expect("a request");
        async move {
            sender
                .send_request(request)
                .await
                .expect("answered")
                .status()
        }
    });
    let statuses = futures::future::join_all(requests).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(setup.dialler.count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn cookies_of_http2_become_one_field_of_http1() {
    let setup = setup(HOST, &[ALPN_HTTP1]).await;
    let stream = setup.connect(HOST, &[ALPN_HTTP2]).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("ready");
    tokio::spawn(connection);
    let request = Request::get(format!("https://{HOST}/"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(whole(""))
        .expect("a request");
    let response = sender.send_request(request).await.expect("answered");
    let body = response.into_body().collect().await.expect("whole");
    let body = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    assert!(body.contains("cookie: a=1; b=2\n"), "{body}");
}

#[tokio::test]
async fn redirect_that_repeats_the_secret_has_the_placeholder() {
    let (tls, root) = server_tls(HOST, &[]);
    let server = server(Some(tls), false, |request| async move {
        let query = request.uri().query().expect("a query").to_owned();
        hyper::Response::builder()
            .status(302)
            .header("location", format!("https://evil.example/?{query}"))
            .header("alt-svc", "h3=\":443\"")
            .body(whole(""))
            .expect("a response")
    })
    .await;
    let setup = setup_to(server, root).await;
    let placeholder = setup.secret.placeholder();
    let (_, output) = setup
        .curl(&[&format!("https://{HOST}/?{placeholder}")])
        .await;
    let location = format!("location: https://evil.example/?{placeholder}\r\n");
    assert!(output.contains(&location), "{output}");
    assert!(!output.contains("alt-svc"), "{output}");
}

#[tokio::test]
async fn server_that_is_not_trusted_gets_nothing() {
    let (tls, _) = server_tls(HOST, &[]);
    let (_, another_root) = server_tls(HOST, &[]);
    let setup = setup_to(server(Some(tls), false, echo).await, another_root).await;
    let (_, output) = setup.curl(&[&format!("https://{HOST}/")]).await;
    assert!(output.starts_with("HTTP/2 502"), "{output}");
    assert!(
        output.contains("no TLS with api.example.com: invalid peer certificate"),
        "{output}"
    );

    let wrong_name = self::setup("other.example.com", &[]).await;
    let (_, output) = wrong_name.curl(&[&format!("https://{HOST}/")]).await;
    assert!(output.starts_with("HTTP/2 502"), "{output}");
}

#[tokio::test]
async fn guest_that_does_not_trust_the_authority_sends_nothing() {
    let mut setup = setup(HOST, &[]).await;
    setup.authority = Authority::new()
        .expect("an authority")
        .certificate_pem()
        .to_owned();
    let (is_fine, output) = setup.curl(&[&format!("https://{HOST}/")]).await;
    assert!(!is_fine && output.contains("certificate"), "{output}");
    assert_eq!(setup.dialler.count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn request_for_another_host_than_the_hello_is_misdirected() {
    let setup = setup(HOST, &[]).await;
    let request = Request::get("/")
        .header("host", "evil.example")
        .body(whole(""))
        .expect("a request");
    let (status, body) = setup.send(request).await;
    assert_eq!(status, 421);
    assert_eq!(
        body,
        "misdirected request: host is not the one in the TLS hello\n"
    );
    assert_eq!(setup.dialler.count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn placeholder_toward_another_host_is_refused_and_told() {
    let setup = setup("other.example.com", &[]).await;
    let placeholder = setup.secret.placeholder();
    let header = format!("Authorization: Bearer {placeholder}");
    let url = "https://other.example.com/x";
    let (_, output) = setup.curl(&["-H", &header, url]).await;
    assert!(output.starts_with("HTTP/2 403"), "{output}");
    let reason = "secret KEY is not sent: it is not for this host";
    assert!(
        output.contains(&format!("denied by smolvm: {reason}\n")),
        "{output}"
    );
    let event = told(&setup.records).await;
    assert_eq!(
        (event.rule, event.status),
        (format!("built-in: {reason}"), Some(403))
    );

    // In a body it is found only when the request is under way.
    let (_, output) = setup.curl(&["--data", placeholder, url]).await;
    assert!(output.starts_with("HTTP/2 403"), "{output}");
    assert_eq!(
        told(&setup.records).await.rule,
        format!("built-in: {reason}")
    );
}

#[tokio::test]
async fn secret_is_put_into_bodies() {
    let setup = setup(HOST, &[]).await;
    let placeholder = setup.secret.placeholder();
    let text = format!("key={placeholder}&other=1");
    let expected = format!("key={}&other=1", masked());

    let request = Request::post("/")
        .header("host", HOST)
        .body(whole(text.clone()))
        .expect("a request");
    let (status, body) = setup.send(request).await;
    let length = expected.len();
    assert_eq!(status, 200);
    assert!(
        body.contains(&format!("content-length: {length}\n")),
        "{body}"
    );
    assert!(body.ends_with(&expected), "{body}");
    assert_eq!(told(&setup.records).await.secrets, ["KEY"]);

    // In pieces, of which none has the whole placeholder, and without a length.
    let pieces: Vec<_> = text
        .as_bytes()
        .chunks(10)
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let request = Request::post("/")
        .header("host", HOST)
        .body(StreamBody::new(stream::iter(pieces)).boxed_unsync())
        .expect("a request");
    let (status, body) = setup.send(request).await;
    assert_eq!(status, 200);
    assert!(body.contains("transfer-encoding: chunked\n"), "{body}");
    assert!(body.ends_with(&expected), "{body}");
    assert_eq!(told(&setup.records).await.secrets, ["KEY"]);
}

#[tokio::test]
async fn placeholder_in_a_long_body_is_refused() {
    let setup = setup(HOST, &[]).await;
    let mut text = "x".repeat(2 << 20);
    text += setup.secret.placeholder();
    let request = Request::post("/")
        .header("host", HOST)
        .body(whole(text))
        .expect("a request");
    let (status, body) = setup.send(request).await;
    assert_eq!(status, 403);
    assert_eq!(
        body,
        "denied by smolvm: secret KEY is not sent: the body is too long to put it in\n"
    );
}

#[tokio::test]
async fn hello_byte_by_byte_is_intercepted_alike() {
    let setup = setup(HOST, &[]).await;
    let (listener, address) = listen().await;
    let gateway = setup.gateway;
    tokio::spawn(async move {
        let (mut guest, _) = listener.accept().await.expect("accepted");
        let mut server = TcpStream::connect(gateway).await.expect("connected");
        server.set_nodelay(true).expect("set");
        let mut hello = [0; 200];
        guest.read_exact(&mut hello).await.expect("read");
        for byte in hello {
            server.write_all(&[byte]).await.expect("sent");
        }
        let _copied = tokio::io::copy_bidirectional(&mut guest, &mut server).await;
    });
    let slow = Setup {
        gateway: address,
        ..setup
    };
    let (is_fine, output) = slow.curl(&[&format!("https://{HOST}/slow")]).await;
    assert!(is_fine, "{output}");
    assert!(output.contains("GET /slow\n"), "{output}");
}

#[test]
fn authority_that_is_read_again_issues_for_who_trusts_it() {
    let authority = Authority::new().expect("an authority");
    let again = Authority::from_pem(&authority.to_pem()).expect("read again");
    assert_eq!(again.to_pem(), authority.to_pem());

    let (chain, _) = again.make_leaf(&host()).expect("a leaf");
    let root = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .expect("a verifier");
    let verify = |name: &str| {
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &chain[0],
            &chain[1..],
            &name.to_owned().try_into().expect("a name"),
            &[],
            rustls::pki_types::UnixTime::now(),
        )
    };
    assert!(verify(HOST).is_ok());
    assert!(verify("other.example.com").is_err());
}

#[test]
fn authority_does_not_show_its_key_or_take_another() {
    let authority = Authority::new().expect("an authority");
    assert_eq!(format!("{authority:?}"), "Authority { .. }");
    assert!(!authority.certificate_pem().contains("PRIVATE KEY"));

    let another = Authority::new().expect("an authority").to_pem();
    let key = another.find("-----BEGIN PRIVATE KEY").expect("a key");
    let mixed = authority.certificate_pem().to_owned() + &another[key..];
    let error = |text: &str| Authority::from_pem(text).expect_err("refused").to_string();
    assert_eq!(
        error(&mixed),
        "the authority's certificate and private key do not belong together"
    );
    assert_eq!(error(""), "no certificate in the authority's file");
    assert_eq!(
        error(authority.certificate_pem()),
        "no private key in the authority's file"
    );
}

#[test]
fn leaves_are_kept_and_bounded() {
    let leaves = Leaves::new(Authority::new().expect("an authority"));
    let first = leaves.config(&host()).expect("made");
    assert!(Arc::ptr_eq(&first, &leaves.config(&host()).expect("kept")));
    for number in 0..leaves::MAX_LEAVES {
        let name = format!("{number}.example.com").parse().expect("a name");
        leaves.config(&name).expect("made");
    }
    assert!(!Arc::ptr_eq(
        &first,
        &leaves.config(&host()).expect("made again")
    ));
    assert!(leaves.len() <= leaves::MAX_LEAVES);
}
