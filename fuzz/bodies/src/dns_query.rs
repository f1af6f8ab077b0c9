//! A guest's DNS queries, through [`Resolver`]. Nobody is asked.
//!
//! What is answered can be read, has the query's identifier, fits a datagram, and has no address
//! but the gateway's own.

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::{RData, RecordType};
use smolvm_network::{
    AwaitedCause, DnsTransport, Mode, NetworkPolicy, Pins, PolicyHandle, Resolver, ResolverConfig,
    UpstreamConfig,
};

use crate::{runtime, seeds};

/// Bytes of a datagram that passes everywhere (DNS flag day 2020).
const MAX_UDP_BYTES: usize = 1232;

const HOST: &str = "10.0.2.2";
const GATEWAY: &str = "10.0.2.1";

/// Asks in a datagram and in a stream.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let resolver = resolver();
    runtime::without_sockets(async {
        let in_datagram = resolver
            .answer(input, DnsTransport::Udp, &[], &AwaitedCause::unknown())
            .await;
        let in_stream = resolver
            .answer(input, DnsTransport::Tcp, &[], &AwaitedCause::unknown())
            .await;
        assert_eq!(in_datagram.is_some(), in_stream.is_some());
        if let Some(answer) = in_datagram {
            assert!(answer.len() <= MAX_UDP_BYTES, "{} bytes", answer.len());
            check(input, &answer);
        }
        if let Some(answer) = in_stream {
            check(input, &answer);
        }
    });
}

fn resolver() -> Resolver {
    let config = ResolverConfig {
        upstream: UpstreamConfig::Servers(Vec::new()),
        host: vec![HOST.parse().expect("an address")],
        gateway: vec![GATEWAY.parse().expect("an address")],
        guest: Vec::new(),
        has_ipv6: true,
    };
    let rules = ["allow *.example.com", "allow host.smolvm.internal:80"];
    let rules = rules.map(|rule| rule.parse().expect("a rule")).into();
    let policy = NetworkPolicy::new(Mode::Restricted, rules).expect("few rules");
    let policy = PolicyHandle::new(&policy);
    Resolver::new(config, policy, Pins::default(), runtime::events())
}

fn check(query: &[u8], answer: &[u8]) {
    let message = Message::from_vec(answer).expect("readable");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert_eq!(answer.get(..2), query.get(..2), "identifier");
    for record in &message.answers {
        let RData::A(address) = &record.data else {
            panic!("{record}");
        };
        let address = address.to_string();
        assert!([HOST, GATEWAY].contains(&address.as_str()), "{address}");
    }
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        ("a.example.com", RecordType::A),
        ("b.example.com", RecordType::HTTPS),
        ("host.smolvm.internal", RecordType::A),
        ("gateway.smolvm.internal", RecordType::AAAA),
        ("example.org", RecordType::TXT),
        ("c.example.com", RecordType::ANY),
    ]
    .into_iter()
    .map(|(name, record_type)| seeds::dns_query(name, record_type))
    .collect()
}
