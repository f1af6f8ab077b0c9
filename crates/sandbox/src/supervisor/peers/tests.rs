//! Who is let in by the socket for peers, with real files and sockets, and a gateway without a
//! guest: it opens an exchange of datagrams whoever listens.

use std::io::ErrorKind;

use smolvm_network::{
    BoxStream, ContentConfig, EventLog, Gateway, GatewayConfig, Limits, NetworkPolicy,
    PeerDirectory as _, PeerName, PolicyHandle, Protocol, UpstreamConfig,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::network::{device, gateway_side};
use crate::store::{Store, StoreError};
use crate::{Lifetime, Networks, SandboxSpec};

/// Several sandboxes of one store, of which one is open to peers.
struct Fixture {
    directory: tempfile::TempDir,
    store: Store,
}

/// A sandbox that runs.
struct Member {
    files: SandboxDir,
    membership: Arc<Membership>,
}

/// A sandbox that is open to peers.
struct Open {
    socket: PeerSocket,
    _gateway: Gateway,
    _guest: DuplexStream,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(directory.path()).expect("store");
        Self { directory, store }
    }

    fn member(&self, name: &str, networks: &[&str]) -> Member {
        let mut spec = SandboxSpec::new(name.parse().expect("a name"), Lifetime::Persistent);
        let names = networks.iter().map(|name| name.parse().expect("a name"));
        spec.networks = Networks::new(names).expect("few");
        let (lock, _) = self
            .store
            .create(&spec, |_| Ok::<(), StoreError>(()))
            .expect("free name");
        let files = lock.directory().clone();
        let membership = Membership::begin(&spec, &files).expect("written");
        Member {
            files,
            membership: Arc::new(membership.expect("in a network")),
        }
    }

    fn open(&self, member: &Member) -> Open {
        let (guest, link) = tokio::io::duplex(64 * 1024);
        let log = std::fs::File::create(self.directory.path().join("log")).expect("file");
        let (log, _writer) = EventLog::start(log).expect("log");
        let gateway = Gateway::start(
            link,
            GatewayConfig {
                link: gateway_side(device()),
                policy: PolicyHandle::new(&NetworkPolicy::default()),
                upstream: UpstreamConfig::Servers(Vec::new()),
                content: ContentConfig::default(),
                log,
                causes: None,
                limits: Limits::default(),
                peers: Some(member.membership.config()),
            },
        );
        let membership = Arc::clone(&member.membership);
        let socket = PeerSocket::open(&member.files, membership, gateway.door());
        Open {
            socket: socket.expect("open"),
            _gateway: gateway,
            _guest: guest,
        }
    }
}

impl Member {
    async fn dial(&self, peer: &str) -> std::io::Result<BoxStream> {
        let peer = PeerName::new(peer).expect("a label");
        self.membership.dial(&peer, Protocol::Udp, 53).await
    }

    async fn answer_of(&self, peer: &str) -> PeerAnswer {
        let mut stream = self.dial(peer).await.expect("connected");
        PeerAnswer::receive(&mut stream).await.expect("an answer")
    }

    async fn network_with(&self, peer: &str) -> Option<Arc<str>> {
        let peer = PeerName::new(peer).expect("a label");
        self.membership.network_with(&peer).await
    }

    /// Connects as anybody of the same user can.
    async fn connect(&self) -> UnixStream {
        let socket = self.files.peers_socket();
        socket::connect(&self.files, &socket)
            .await
            .expect("connected")
    }

    fn proof(&self) -> String {
        fs::read_to_string(self.files.peers_proof()).expect("a proof")
    }
}

fn hello(from: &str, proof: String) -> PeerHello {
    PeerHello {
        from: PeerName::new(from).expect("a label"),
        proof,
        protocol: Protocol::Udp,
        port: 53,
    }
}

#[tokio::test]
async fn member_of_the_same_network_is_let_in() {
    let fixture = Fixture::new();
    let db = fixture.member("db", &["lab", "team"]);
    let web = fixture.member("web", &["team"]);
    let _open = fixture.open(&db);
    assert_eq!(web.network_with("db").await.as_deref(), Some("team"));
    assert_eq!(web.answer_of("db").await, PeerAnswer::Opened);
}

#[tokio::test]
async fn sandbox_of_another_network_finds_nobody_and_is_denied() {
    let fixture = Fixture::new();
    let db = fixture.member("db", &["team"]);
    let other = fixture.member("other", &["else"]);
    let _open = fixture.open(&db);
    assert_eq!(other.network_with("db").await, None);
    assert_eq!(other.network_with("nobody").await, None);
    assert_eq!(other.answer_of("db").await, PeerAnswer::Denied);
}

#[tokio::test]
async fn claim_without_its_proof_is_denied() {
    let fixture = Fixture::new();
    let db = fixture.member("db", &["team"]);
    let web = fixture.member("web", &["team"]);
    let other = fixture.member("other", &["else"]);
    let _open = fixture.open(&db);
    for (from, proof) in [
        ("web", other.proof()),
        ("web", String::new()),
        ("web", format!("{}0", web.proof())),
        ("nobody", web.proof()),
        // Nobody is its own peer.
        ("db", db.proof()),
    ] {
        let mut stream = db.connect().await;
        hello(from, proof).send(&mut stream).await.expect("sent");
        let answer = PeerAnswer::receive(&mut stream).await.expect("an answer");
        assert_eq!(answer, PeerAnswer::Denied, "{from}");
    }
}

#[tokio::test]
async fn proof_of_an_earlier_start_is_worth_nothing() {
    let fixture = Fixture::new();
    let db = fixture.member("db", &["team"]);
    let web = fixture.member("web", &["team"]);
    let _open = fixture.open(&db);
    let old = web.proof();
    let (spec, _) = web.files.read_spec().expect("a specification");
    let again = Membership::begin(&spec, &web.files).expect("written");
    assert!(again.is_some());
    let mut stream = db.connect().await;
    hello("web", old).send(&mut stream).await.expect("sent");
    let answer = PeerAnswer::receive(&mut stream).await.expect("an answer");
    assert_eq!(answer, PeerAnswer::Denied);
}

#[tokio::test]
async fn garbage_is_not_answered_and_the_next_peer_served() {
    let fixture = Fixture::new();
    let db = fixture.member("db", &["team"]);
    let web = fixture.member("web", &["team"]);
    let _open = fixture.open(&db);
    let mut garbage = db.connect().await;
    garbage
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    // The end may come as a reset: what was sent has not been read.
    let mut answer = Vec::new();
    let _either = garbage.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    assert_eq!(web.answer_of("db").await, PeerAnswer::Opened);
}

#[tokio::test]
async fn crowd_that_says_nothing_makes_room_as_it_goes() {
    let fixture = Fixture::new();
    let db = fixture.member("db", &["team"]);
    let web = fixture.member("web", &["team"]);
    let _open = fixture.open(&db);
    let mut crowd = Vec::new();
    for _ in 0..MAX_ARRIVING {
        crowd.push(db.connect().await);
    }
    let mut stream = web.dial("db").await.expect("connected");
    drop(crowd.pop());
    let answer = PeerAnswer::receive(&mut stream).await.expect("an answer");
    assert_eq!(answer, PeerAnswer::Opened);
}

#[tokio::test]
async fn closed_socket_is_gone_and_dialling_fails_at_once() {
    let fixture = Fixture::new();
    let db = fixture.member("db", &["team"]);
    let web = fixture.member("web", &["team"]);
    let open = fixture.open(&db);
    assert_eq!(web.answer_of("db").await, PeerAnswer::Opened);
    drop(open.socket);
    assert!(!db.files.peers_socket().exists());
    let Err(error) = web.dial("db").await else {
        panic!("nobody listens");
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(error.to_string(), "it does not run");
    // Still a member: its name is known.
    assert_eq!(web.network_with("db").await.as_deref(), Some("team"));
}

#[tokio::test]
async fn socket_and_proof_are_the_owner_s_alone() {
    let fixture = Fixture::new();
    let db = fixture.member("db", &["team"]);
    let _open = fixture.open(&db);
    for path in [db.files.peers_socket(), db.files.peers_proof()] {
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}
