//! A DNS server on loopback. The first label of a name says what it answers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::SVCB;
use hickory_proto::rr::rdata::{CNAME, HTTPS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

/// A server that ends when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct State {
    questions: Mutex<Vec<String>>,
    rotation: AtomicU8,
}

/// Returns an address at which nobody listens.
pub(super) async fn unused_address() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
    socket.expect("a port").local_addr().expect("an address")
}

impl Server {
    pub(super) async fn start() -> Self {
        let streams = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = streams.local_addr().expect("an address");
        let datagrams = UdpSocket::bind(address).await.expect("the same port");
        let state = Arc::new(State::default());
        Self {
            address,
            tasks: [
                tokio::spawn(serve_datagrams(datagrams, Arc::clone(&state))),
                tokio::spawn(serve_streams(streams)),
            ],
            state,
        }
    }

    /// Returns the names that were asked for in datagrams.
    pub(super) fn questions(&self) -> Vec<String> {
        self.state.questions.lock().expect("not poisoned").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve_datagrams(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let request = Message::from_vec(&buffer[..length]).expect("a query");
        let name = request.queries[0].name.to_ascii();
        state
            .questions
            .lock()
            .expect("not poisoned")
            .push(name.clone());
        for datagram in datagrams(&name, &request, &state) {
            socket.send_to(&datagram, from).await.expect("sent");
        }
    }
}

fn datagrams(name: &str, request: &Message, state: &State) -> Vec<Vec<u8>> {
    let real = answer(request, state).to_vec().expect("written");
    match name.split('.').next().expect("a label") {
        "silent" => Vec::new(),
        "garbage" => vec![vec![0xff; 40], b"garbage".to_vec()],
        "forged" => {
            let mut other_id = answer(request, state);
            other_id.metadata.id ^= 1;
            let mut other_question = answer(request, state);
            other_question.queries = vec![Query::query(
                Name::from_ascii("evil.example.").expect("a name"),
                RecordType::A,
            )];
            let forged = [other_id, other_question].map(|mut forged| {
                forged.answers = vec![record(&request.queries[0].name, 60, v4(66))];
                forged.to_vec().expect("written")
            });
            forged.into_iter().chain([real]).collect()
        }
        "long" => {
            let mut short = answer(request, state);
            short.metadata.truncation = true;
            short.answers.clear();
            vec![short.to_vec().expect("written")]
        }
        _ => vec![real],
    }
}

async fn serve_streams(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let length = stream.read_u16().await.expect("a length");
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.expect("a query");
        let request = Message::from_vec(&bytes).expect("a query");
        let answer = answer(&request, &State::default())
            .to_vec()
            .expect("written");
        let length = u16::try_from(answer.len()).expect("short");
        stream.write_u16(length).await.expect("sent");
        stream.write_all(&answer).await.expect("sent");
    }
}

fn v4(last: u8) -> RData {
    RData::A(Ipv4Addr::new(203, 0, 113, last).into())
}

fn record(name: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name.clone(), ttl, data)
}

fn answer(request: &Message, state: &State) -> Message {
    let query = request.queries[0].clone();
    let name = query.name.clone();
    let mut answer = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    answer.queries = vec![query.clone()];
    let text = name.to_ascii().to_ascii_lowercase();
    let label = text.split('.').next().expect("a label");
    let private = RData::A(Ipv4Addr::new(10, 0, 0, 1).into());
    answer.answers = match (label, query.query_type) {
        ("rotating", _) => {
            let last = state.rotation.fetch_add(1, Ordering::Relaxed);
            vec![record(&name, 60, v4(10 + last))]
        }
        ("private", _) => vec![record(&name, 60, private)],
        ("mixed", _) => vec![record(&name, 60, private), record(&name, 60, v4(1))],
        ("mapped", _) => {
            let mapped: Ipv6Addr = "::ffff:169.254.169.254".parse().expect("an address");
            vec![record(&name, 60, RData::AAAA(mapped.into()))]
        }
        ("alias", _) => aliases(&name),
        ("long", _) => (0..60).map(|last| record(&name, 60, v4(last))).collect(),
        ("_text", _) => {
            answer.additionals = vec![record(&name, 60, v4(1))];
            let text = TXT::new(vec!["text".to_owned()]);
            vec![record(&name, 60, RData::TXT(text))]
        }
        ("missing", _) => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(name.clone(), name.clone(), 1, 60, 60, 60, 60);
            answer.authorities = vec![record(&name, 60, RData::SOA(soa))];
            Vec::new()
        }
        ("broken", _) => {
            answer.metadata.response_code = ResponseCode::ServFail;
            Vec::new()
        }
        (_, RecordType::HTTPS) => {
            let service = HTTPS(SVCB::new(1, Name::root(), Vec::new()));
            vec![record(&name, 60, RData::HTTPS(service))]
        }
        (_, RecordType::AAAA) => {
            let public: Ipv6Addr = "2001:db8::1".parse().expect("an address");
            vec![record(&name, 60, RData::AAAA(public.into()))]
        }
        (label, _) => {
            let ttl = label
                .strip_prefix("ttl-")
                .map_or(60, |ttl| ttl.parse().expect("seconds"));
            vec![record(&name, ttl, v4(1))]
        }
    };
    answer
}

/// Returns an address at the end of two aliases, and one that nothing leads to.
fn aliases(name: &Name) -> Vec<Record> {
    let [first, second, other] = ["first.test.", "second.test.", "other.test."]
        .map(|text| Name::from_ascii(text).expect("a name"));
    vec![
        record(&second, 60, v4(5)),
        record(name, 60, RData::CNAME(CNAME(first.clone()))),
        record(&first, 60, RData::CNAME(CNAME(second))),
        record(&other, 60, v4(66)),
    ]
}
