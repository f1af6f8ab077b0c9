//! What a DNS server answers to a question of a guest's, through [`Resolver`].
//!
//! ```text
//!   1 byte      10 bytes             the rest
//!   type asked  header without id    what follows the question
//! ```
//!
//! The server is on loopback, as the resolver has no other seam; identifier and question are right,
//! as nothing else is read. What the guest is told has no address that is protected, only records
//! of the question, and a time to live within bounds; nor is such an address pinned.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use smolvm_network::{
    AwaitedCause, DnsTransport, Mode, NetworkPolicy, Pins, PolicyHandle, Resolver, ResolverConfig,
    UpstreamConfig,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use crate::{runtime, seeds};

const NAME: &str = "a.example.com";

/// What is asked for, by the first byte.
const TYPES: [RecordType; 4] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::TXT,
    RecordType::HTTPS,
];

/// Some addresses that are protected.
const WITHHELD: [Ipv4Addr; 3] = [
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(169, 254, 169, 254),
];

/// Bytes of a header (RFC 1035 §4.1.1), of which two are the identifier.
const HEADER_BYTES: usize = 12;
const ID_BYTES: usize = 2;

/// Has the guest ask, and the server answer with the input.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Some((&kind, answer)) = input.split_first() else {
        return;
    };
    let record_type = TYPES[usize::from(kind) % TYPES.len()];
    if answer.len() < HEADER_BYTES - ID_BYTES {
        return;
    }
    runtime::with_sockets(async {
        let server = serve(answer.to_vec()).await;
        let pins = Pins::default();
        let resolver = resolver(server, pins.clone());
        let query = seeds::dns_query(NAME, record_type);
        for transport in [DnsTransport::Udp, DnsTransport::Tcp] {
            let told = resolver
                .answer(&query, transport, &[], &AwaitedCause::unknown())
                .await;
            check(&told.expect("a query is answered"), record_type);
        }
        for address in WITHHELD {
            let names = pins.names_of(address.into(), Instant::now());
            assert!(names.is_empty(), "{address} is pinned to {names:?}");
        }
    });
}

/// Answers every query with these bytes, in datagrams and in streams.
async fn serve(answer: Vec<u8>) -> SocketAddr {
    let streams = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let streams = streams.expect("a port");
    let address = streams.local_addr().expect("bound");
    let Ok(datagrams) = UdpSocket::bind(address).await else {
        // Somebody else has the port; then nobody answers, which is an answer as well.
        return address;
    };
    let in_streams = answer.clone();
    tokio::spawn(async move {
        let mut query = [0; 1500];
        while let Ok((length, from)) = datagrams.recv_from(&mut query).await {
            let message = message(&query[..length], &answer);
            let _gone = datagrams.send_to(&message, from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = streams.accept().await {
            let length = stream.read_u16().await.unwrap_or(0);
            let mut query = vec![0; length.into()];
            if stream.read_exact(&mut query).await.is_ok() {
                let message = message(&query, &in_streams);
                let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
                let framed = [&length.to_be_bytes()[..], &message].concat();
                let _gone = stream.write_all(&framed).await;
                // The resolver closes first, and then a reset leaves no port that waits.
                let _gone = stream.read_u8().await;
            }
            let _gone = stream.set_zero_linger();
        }
    });
    address
}

/// Returns the answer to a query: identifier and question are the query's.
fn message(query: &[u8], answer: &[u8]) -> Vec<u8> {
    let (header, after) = answer.split_at(HEADER_BYTES - ID_BYTES);
    let after_name = query
        .iter()
        .skip(HEADER_BYTES)
        .position(|byte| *byte == 0)
        .expect("a query of the resolver's");
    let question_end = HEADER_BYTES + after_name + 1 + 4;
    [
        &query[..ID_BYTES],
        header,
        &query[HEADER_BYTES..question_end],
        after,
    ]
    .concat()
}

fn resolver(server: SocketAddr, pins: Pins) -> Resolver {
    let config = ResolverConfig {
        upstream: UpstreamConfig::Servers(vec![server]),
        host: Vec::new(),
        gateway: Vec::new(),
        guest: Vec::new(),
        has_ipv6: true,
    };
    let policy = NetworkPolicy::new(Mode::Open, Vec::new()).expect("no rules");
    let policy = PolicyHandle::new(&policy);
    Resolver::new(config, policy, pins, runtime::events())
}

fn check(told: &[u8], record_type: RecordType) {
    let message = Message::from_vec(told).expect("readable");
    let mut addresses = 0;
    for record in &message.answers {
        let kind = record.record_type();
        let is_asked = [record_type, RecordType::CNAME, RecordType::RRSIG].contains(&kind);
        assert!(is_asked, "{kind} was not asked for");
        assert!((5..=3600).contains(&record.ttl), "{} s", record.ttl);
        let address = match &record.data {
            RData::A(address) => IpAddr::from(address.0),
            RData::AAAA(address) => address.0.into(),
            _ => continue,
        };
        assert!(!is_protected(address), "{address} is told");
        addresses += 1;
    }
    assert!(addresses <= 64, "{addresses} addresses");
}

/// Tells of addresses that nobody may be told, as far as the standard library knows them.
fn is_protected(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local()
        }
    }
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let name = || Name::from_ascii(NAME).expect("a name");
    let alias = || Name::from_ascii("b.example.com").expect("a name");
    let a = |name, address: [u8; 4]| {
        let address = Ipv4Addr::from(address);
        Record::from_rdata(name, 60, RData::A(address.into()))
    };
    let answers = [
        vec![a(name(), [192, 0, 2, 1]), a(name(), [127, 0, 0, 1])],
        vec![a(name(), [10, 0, 0, 1])],
        vec![
            Record::from_rdata(name(), 1, RData::CNAME(CNAME(alias()))),
            a(alias(), [192, 0, 2, 2]),
        ],
        vec![],
    ];
    let mut seeds: Vec<_> = answers
        .into_iter()
        .map(|records| seed(records, false))
        .collect();
    seeds.push(seed(vec![a(name(), [192, 0, 2, 3])], true));
    seeds
}

fn seed(records: Vec<Record>, is_truncated: bool) -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = ResponseCode::NoError;
    message.metadata.truncation = is_truncated;
    let name = Name::from_ascii(NAME).expect("a name");
    message.queries = vec![Query::query(name, RecordType::A)];
    message.answers = records;
    let bytes = message.to_vec().expect("short");
    let question_end = HEADER_BYTES + NAME.len() + 2 + 4;
    [&[0], &bytes[ID_BYTES..HEADER_BYTES], &bytes[question_end..]].concat()
}
