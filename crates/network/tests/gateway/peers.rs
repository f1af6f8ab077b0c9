//! Two gateways in one private network, each with a guest of its own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use smoltcp::socket::tcp::State;
use smoltcp::socket::udp;
use smolvm_network::{
    BoxStream, Event, Incoming, Limits, PeerAnswer, PeerDirectory, PeerDoor, PeerName, PeersConfig,
    Protocol, Verdict,
};
use tokio::io::AsyncWriteExt as _;

use crate::guest::{self, Guest};
use crate::network::{Network, policy};

/// The port on which the guest `db` offers something.
const PORT: u16 = 5432;

/// The network that all members of a [`Team`] are in.
const TEAM: &str = "team";

/// The members of a network, and what stands where their gateways would.
#[derive(Default)]
struct Team(Mutex<HashMap<PeerName, Place>>);

enum Place {
    /// A gateway.
    Door(PeerDoor),
    /// A sandbox that does not run.
    Away,
    /// Something that answers with these bytes and goes on saying nothing.
    Bytes(&'static [u8]),
}

impl Team {
    /// Returns a member with a gateway, which the others find.
    fn join(self: &Arc<Self>, name: &str, mode: &str, rules: &[&str]) -> Network {
        let own = PeerName::new(name).expect("a label");
        let peers = PeersConfig {
            own: own.clone(),
            range: "172.16.64.0/18".parse().expect("a network"),
            directory: Arc::new(Member {
                team: Arc::clone(self),
                own: own.clone(),
            }),
        };
        let limits = Limits {
            // A new gateway has saved up no queries yet.
            dns_queries_per_second: 1_000_000,
            ..Limits::default()
        };
        let network = Network::with_peers(mode, rules, limits, Some(peers));
        self.put(name, Place::Door(network.gateway.door()));
        network
    }

    fn put(&self, name: &str, place: Place) {
        let name = PeerName::new(name).expect("a label");
        self.0.lock().expect("no panic").insert(name, place);
    }
}

/// The network as one member sees it.
struct Member {
    team: Arc<Team>,
    own: PeerName,
}

impl PeerDirectory for Member {
    fn network_with<'a>(&'a self, peer: &'a PeerName) -> BoxFuture<'a, Option<Arc<str>>> {
        let is_there = self.team.0.lock().expect("no panic").contains_key(peer);
        async move { is_there.then(|| TEAM.into()) }.boxed()
    }

    fn dial<'a>(
        &'a self,
        peer: &'a PeerName,
        protocol: Protocol,
        port: u16,
    ) -> BoxFuture<'a, io::Result<BoxStream>> {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let door = match self.team.0.lock().expect("no panic").get(peer) {
            Some(Place::Door(door)) => Ok(door.clone()),
            Some(Place::Bytes(bytes)) => Err(Some(*bytes)),
            Some(Place::Away) | None => Err(None),
        };
        async move {
            match door {
                Ok(door) => {
                    let incoming = Incoming {
                        peer: self.own.clone(),
                        network: TEAM.into(),
                        protocol,
                        port,
                        stream: Box::new(theirs),
                    };
                    door.enter(incoming).await;
                }
                Err(Some(bytes)) => theirs.write_all(bytes).await?,
                Err(None) => return Err(io::ErrorKind::ConnectionRefused.into()),
            }
            Ok(Box::new(ours) as BoxStream)
        }
        .boxed()
    }
}

/// Asks the gateway's resolver for a name's IPv4 addresses.
async fn resolve(guest: &mut Guest, name: &str) -> (ResponseCode, Vec<Ipv4Addr>) {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.queries = vec![Query::query(
        Name::from_ascii(name).expect("a name"),
        RecordType::A,
    )];
    let query = query.to_vec().expect("written");
    let handle = guest.udp();
    let server = (guest::GATEWAY.parse::<smoltcp::wire::IpAddress>(), 53);
    let server = (server.0.expect("an address"), server.1);
    let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
    socket.send_slice(&query, server).expect("room");
    let answer = guest
        .until(|guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            let (answer, _) = socket.recv().ok()?;
            Some(Message::from_vec(answer).expect("an answer"))
        })
        .await;
    let addresses = answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        });
    (answer.metadata.response_code, addresses.collect())
}

/// Returns where the peer `name` is reached, at [`PORT`].
async fn peer(guest: &mut Guest, name: &str) -> SocketAddr {
    let (code, addresses) = resolve(guest, &format!("{name}.")).await;
    assert_eq!(
        (code, addresses.len()),
        (ResponseCode::NoError, 1),
        "{name}"
    );
    (addresses[0], PORT).into()
}

/// Answers one connection with what it sends, and then closes.
async fn echo(guest: &mut Guest) -> Infallible {
    let handle = guest.listen(PORT);
    guest
        .until(|guest| {
            let socket = guest.tcp(handle);
            while socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let take = |bytes: &mut [u8]| {
                    let length = bytes.len().min(room);
                    (length, bytes[..length].to_vec())
                };
                let bytes = socket.recv(take).expect("open");
                socket.send_slice(&bytes).expect("room");
            }
            if socket.state() == State::CloseWait && socket.recv_queue() == 0 {
                socket.close();
            }
            None
        })
        .await
}

/// Lets a guest that offers nothing live.
async fn idle(guest: &mut Guest) -> Infallible {
    guest.until(|_| None).await
}

/// Runs what a client does while a server serves.
async fn while_serving<T>(
    client: impl Future<Output = T>,
    server: impl Future<Output = Infallible>,
) -> T {
    tokio::select! {
        outcome = client => outcome,
        never = server => match never {},
    }
}

/// Returns who connected to a guest, what the guest sees of it, and the verdict.
async fn incoming(network: &mut Network) -> (String, SocketAddr, Verdict) {
    network
        .logged(|event| match event {
            Event::Incoming {
                peer,
                source,
                verdict,
                ..
            } => Some((peer, source, verdict)),
            _ => None,
        })
        .await
}

/// Returns the peer to which a guest connected.
async fn outgoing_peer(network: &mut Network) -> Option<String> {
    network
        .logged(|event| match event {
            Event::Connection { peer, .. } => Some(peer),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn bytes_pass_between_peers_through_a_half_closed_connection() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "restricted", &[]);
    let mut db = team.join("db", "restricted", &[]);
    let sent: Vec<u8> = (0..1_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let client = async {
        let guest = &mut web.guest;
        let to = peer(guest, "db").await;
        let handle = guest.connect(to);
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
        received
    };
    let received = while_serving(client, echo(&mut db.guest)).await;
    assert!(received == sent, "{} of {}", received.len(), sent.len());

    let end = (1_000_000, 1_000_000, "closed".to_owned());
    assert_eq!(web.end_of_connection().await, end);
    assert_eq!(db.end_of_connection().await, end);
    assert_eq!(outgoing_peer(&mut web).await.as_deref(), Some("db"));
    assert_eq!(web.verdict().await, Verdict::allowed("network: team"));
    let (from, source, verdict) = incoming(&mut db).await;
    assert_eq!(from, "web");
    assert_eq!(verdict, Verdict::allowed("network: team"));
    // What db's guest saw of web is web's address there.
    let (_, known) = while_serving(resolve(&mut db.guest, "web."), idle(&mut web.guest)).await;
    assert_eq!(
        known,
        [source.ip().to_string().parse::<Ipv4Addr>().expect("IPv4")]
    );
}

#[tokio::test]
async fn names_of_members_are_those_of_the_network_and_no_others() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &[]);
    let _db = team.join("db", "open", &[]);
    let guest = &mut web.guest;
    let (_, short) = resolve(guest, "db.").await;
    let (_, full) = resolve(guest, "DB.peer.smolvm.internal.").await;
    assert_eq!(short, full);
    let (_, own) = resolve(guest, "web.").await;
    assert_eq!(own, [guest::ADDRESS.parse::<Ipv4Addr>().expect("IPv4")]);
    for nobody in ["dc.", "dc.peer.smolvm.internal.", "db.smolvm.internal."] {
        let answer = resolve(guest, nobody).await;
        assert_eq!(answer, (ResponseCode::NXDomain, Vec::new()), "{nobody}");
    }
}

#[tokio::test]
async fn port_without_a_listener_is_refused_as_by_any_host() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &[]);
    let mut db = team.join("db", "open", &[]);
    let client = async {
        let to = peer(&mut web.guest, "db").await;
        web.guest.connected(to).await
    };
    let state = while_serving(client, idle(&mut db.guest)).await;
    assert_eq!(state, State::Closed);
    let (_, _, reason) = web.end_of_connection().await;
    assert_eq!(reason, "connection refused by the peer's guest");
    let (_, _, reason) = db.end_of_connection().await;
    assert_eq!(reason, "refused by the guest");
}

#[tokio::test]
async fn denial_on_the_way_out_asks_the_peer_nothing() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &["deny db:5432"]);
    let mut db = team.join("db", "open", &["deny from web:80"]);
    let to = peer(&mut web.guest, "db").await;
    assert_eq!(web.guest.connected(to).await, State::Closed);
    assert_eq!(web.verdict().await, Verdict::denied("deny db:5432"));
    // Port 80 gets as far as db, whose log has nothing else.
    let http = SocketAddr::new(to.ip(), 80);
    let state = while_serving(web.guest.connected(http), idle(&mut db.guest)).await;
    assert_eq!(state, State::Closed);
    let (_, _, verdict) = incoming(&mut db).await;
    assert_eq!(verdict, Verdict::denied("deny from web:80"));
    let (_, _, reason) = web.end_of_connection().await;
    assert_eq!(reason, "denied by the peer");
}

#[tokio::test]
async fn peer_with_its_network_off_lets_nobody_in() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &[]);
    let mut db = team.join("db", "off", &[]);
    let client = async {
        let to = peer(&mut web.guest, "db").await;
        web.guest.connected(to).await
    };
    let state = while_serving(client, echo(&mut db.guest)).await;
    assert_eq!(state, State::Closed);
    let (_, _, verdict) = incoming(&mut db).await;
    assert_eq!(verdict, Verdict::denied("mode: off"));
}

#[tokio::test]
async fn peer_that_is_away_or_talks_nonsense_is_a_refusal_at_once() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &[]);
    team.put("away", Place::Away);
    team.put("mad", Place::Bytes(b"HTTP/1.1 400 Bad Request\r\n"));
    team.put("dumb", Place::Bytes(b""));
    for (name, why) in [
        ("away", "connection refused"),
        ("mad", "answer 72 of a peer's gateway is not known"),
        ("dumb", "unexpected end of file"),
    ] {
        let to = peer(&mut web.guest, name).await;
        assert_eq!(web.guest.connected(to).await, State::Closed, "{name}");
        let expected = format!("the peer does not take connections: {why}");
        web.logged(|event| match event {
            Event::Closed { reason, .. } if reason == expected => Some(()),
            _ => None,
        })
        .await;
    }
}

#[tokio::test]
async fn peer_that_sends_garbage_resets_its_own_connection() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &[]);
    // An answer, and then a length that nothing follows.
    team.put("mad", Place::Bytes(b"\0\xff\xff\xff\xffabc"));
    let guest = &mut web.guest;
    let to = peer(guest, "mad").await;
    let handle = guest.connect(to);
    guest
        .until(|guest| (guest.tcp(handle).state() == State::Closed).then_some(()))
        .await;
    let (_, received_bytes, _) = web.end_of_connection().await;
    assert_eq!(received_bytes, 3);
}

#[tokio::test]
async fn reset_passes_from_guest_to_guest() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &[]);
    let mut db = team.join("db", "open", &[]);
    let server = async {
        let handle = db.guest.listen(PORT);
        db.guest
            .until(|guest| {
                let socket = guest.tcp(handle);
                socket.can_recv().then(|| socket.abort())
            })
            .await;
        idle(&mut db.guest).await
    };
    let client = async {
        let guest = &mut web.guest;
        let to = peer(guest, "db").await;
        let handle = guest.connect(to);
        guest
            .until(|guest| {
                let socket = guest.tcp(handle);
                if socket.can_send() && socket.send_queue() == 0 {
                    socket.send_slice(b"hello").expect("open");
                }
                (socket.state() == State::Closed).then_some(())
            })
            .await;
    };
    while_serving(client, server).await;
    let (_, _, reason) = web.end_of_connection().await;
    assert!(reason.contains("reset"), "{reason}");
    let (_, _, reason) = db.end_of_connection().await;
    assert_eq!(reason, "reset by the guest");
}

#[tokio::test]
async fn change_of_the_policy_ends_what_a_peer_has_open() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &[]);
    let mut db = team.join("db", "open", &[]);
    let db_policy = db.policy.clone();
    let client = async {
        let guest = &mut web.guest;
        let to = peer(guest, "db").await;
        let handle = guest.connect(to);
        guest
            .until(|guest| guest.tcp(handle).may_send().then_some(()))
            .await;
        db_policy.set(&policy("open", &["deny from web"]));
        guest
            .until(|guest| (guest.tcp(handle).state() == State::Closed).then_some(()))
            .await;
    };
    while_serving(client, echo(&mut db.guest)).await;
    let (_, _, reason) = db.end_of_connection().await;
    assert_eq!(reason, "denied by a change of the policy");
}

#[tokio::test]
async fn datagrams_of_all_sizes_come_back_from_a_peer() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "restricted", &[]);
    let mut db = team.join("db", "restricted", &[]);
    let server = async {
        let handle = db.guest.udp_at(PORT);
        loop {
            db.guest
                .until(|guest| {
                    let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
                    let (payload, from) = socket.recv().ok()?;
                    let payload = payload.to_vec();
                    socket.send_slice(&payload, from.endpoint).expect("room");
                    Some(())
                })
                .await;
        }
    };
    let client = async {
        let guest = &mut web.guest;
        let to = peer(guest, "db").await;
        let remote = (smoltcp::wire::IpAddress::from(to.ip()), PORT);
        let handle = guest.udp();
        let mut sizes = Vec::new();
        for size in [0, 1, 1473, usize::from(guest::MTU) - 28] {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            socket.send_slice(&vec![b'x'; size], remote).expect("room");
            let answer = guest
                .until(|guest| {
                    let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
                    socket.recv().ok().map(|(payload, _)| payload.len())
                })
                .await;
            sizes.push(answer);
        }
        sizes
    };
    let sizes = while_serving(client, server).await;
    assert_eq!(sizes, [0, 1, 1473, usize::from(guest::MTU) - 28]);
}

#[tokio::test]
async fn ping_does_not_reach_a_peer_and_an_address_of_nobody_is_private() {
    let team = Arc::new(Team::default());
    let mut web = team.join("web", "open", &[]);
    let _db = team.join("db", "open", &[]);
    let to = peer(&mut web.guest, "db").await;
    let _ping = web.guest.send_ping(to.ip());
    let verdict = web.verdict().await;
    assert_eq!(&*verdict.rule, "built-in: pings do not reach peers");
    let nobody: SocketAddr = "172.16.100.1:5432".parse().expect("an address");
    assert_eq!(web.guest.connected(nobody).await, State::Closed);
    let to_nobody = |event| match event {
        Event::Connection {
            destination,
            verdict,
            ..
        } if destination == nobody => Some(verdict),
        _ => None,
    };
    let verdict = web.logged(to_nobody).await;
    assert_eq!(&*verdict.rule, "built-in: private address");
}

#[tokio::test]
async fn one_connection_of_peers_too_many_is_refused_and_counted() {
    let team = Arc::new(Team::default());
    let mut db = team.join("db", "open", &[]);
    let door = db.gateway.door();
    let mut streams = Vec::new();
    // The guest lives only to the end of this: none of them is answered meanwhile.
    for _ in 0..257 {
        let (ours, theirs) = tokio::io::duplex(64);
        let incoming = Incoming {
            peer: PeerName::new("web").expect("a label"),
            network: TEAM.into(),
            protocol: Protocol::Udp,
            port: PORT,
            stream: Box::new(theirs),
        };
        door.enter(incoming).await;
        streams.push(ours);
    }
    assert_eq!(db.dropped("too many connections of peers at once").await, 1);
    let last = streams.last_mut().expect("257");
    assert!(PeerAnswer::receive(last).await.is_err());
    let first = streams.first_mut().expect("257");
    assert_eq!(
        PeerAnswer::receive(first).await.expect("an answer"),
        PeerAnswer::Opened
    );
}
