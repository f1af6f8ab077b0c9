//! The resolver against a server on loopback that answers by what it is asked, well or badly.

mod server;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name as WireName, RData, RecordType};
use proptest::prelude::*;

use self::server::Server;
use super::*;
use crate::event_log::Recorded;
use crate::policy::{Mode, NetworkPolicy, PolicyHandle};
use crate::{AwaitedCause, Event, EventSink, Name, Record, Verdict};

/// A resolver as a gateway has it, and what can be seen of it.
struct Fixture {
    resolver: Resolver,
    policy: PolicyHandle,
    pins: Pins,
    events: Recorded,
}

fn policy(mode: Mode, rules: &[&str]) -> NetworkPolicy {
    let rules = rules
        .iter()
        .map(|rule| rule.parse().expect("a rule"))
        .collect();
    NetworkPolicy::new(mode, rules).expect("few rules")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn config(upstream: Vec<SocketAddr>) -> ResolverConfig {
    ResolverConfig {
        upstream: UpstreamConfig::Servers(upstream),
        host: vec![address("10.0.2.2"), address("fd00:2::2")],
        gateway: vec![address("10.0.2.1")],
        guest: vec![address("10.0.2.15")],
        has_ipv6: true,
    }
}

impl Fixture {
    fn new(upstream: Vec<SocketAddr>, mode: Mode, rules: &[&str]) -> Self {
        Self::with_config(config(upstream), mode, rules)
    }

    fn with_config(config: ResolverConfig, mode: Mode, rules: &[&str]) -> Self {
        let (sink, events) = EventSink::for_test();
        let policy = PolicyHandle::new(&policy(mode, rules));
        let pins = Pins::default();
        Self {
            resolver: Resolver::new(config, policy.clone(), pins.clone(), sink),
            policy,
            pins,
            events,
        }
    }

    async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        self.send(&query(name, record_type), DnsTransport::Udp)
            .await
            .expect("answered")
    }

    async fn send(&self, query: &Message, transport: DnsTransport) -> Option<Message> {
        let bytes = query.to_vec().expect("written");
        let answer = self
            .resolver
            .answer(&bytes, transport, &[], &AwaitedCause::unknown())
            .await?;
        Some(Message::from_vec(&answer).expect("readable"))
    }

    fn event(&self) -> Event {
        self.events.next().expect("an event").event
    }

    /// Returns the names pinned to an address, and when they end.
    fn names_at(&self, text: &str, after: Duration) -> Vec<Name> {
        self.pins.names_of(address(text), Instant::now() + after)
    }
}

fn wire(name: &str) -> WireName {
    WireName::from_ascii(name).expect("a name")
}

fn query(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries = vec![Query::query(wire(name), record_type)];
    message
}

fn with_edns(mut query: Message, max_payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(max_payload);
    query.edns = Some(edns);
    query
}

fn addresses(answer: &Message) -> Vec<String> {
    answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.to_string()),
            RData::AAAA(address) => Some(address.to_string()),
            _ => None,
        })
        .collect()
}

fn extended_error(answer: &Message) -> Option<Vec<u8>> {
    match answer.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, data) => Some(data.clone()),
        _ => None,
    }
}

mod answers {
    use super::*;

    #[tokio::test]
    async fn allowed_name_is_answered_pinned_and_recorded() {
        let server = Server::start().await;
        let fixture = Fixture::new(
            vec![server.address],
            Mode::Restricted,
            &["allow *.example:443"],
        );
        let answer = fixture.ask("Good.EXAMPLE.", RecordType::A).await;
        assert_eq!(answer.metadata.id, 4711);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.recursion_available);
        assert!(answer.queries[0].name.eq_case(&wire("Good.EXAMPLE.")));
        assert_eq!(addresses(&answer), ["203.0.113.1"]);
        assert_eq!(
            fixture.names_at("203.0.113.1", Duration::ZERO),
            ["good.example".parse().expect("a name")]
        );
        assert_eq!(
            fixture.event(),
            Event::Dns {
                name: "good.example".to_owned(),
                record_type: "A".to_owned(),
                verdict: Verdict::allowed("allow *.example:443"),
                outcome: "NOERROR".to_owned(),
                addresses: vec![address("203.0.113.1")],
                withheld: Vec::new(),
            }
        );
    }

    #[tokio::test]
    async fn every_rotated_address_is_pinned() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let first = addresses(&fixture.ask("rotating.example.", RecordType::A).await);
        let second = addresses(&fixture.ask("rotating.example.", RecordType::A).await);
        assert_ne!(first, second);
        assert_eq!(fixture.names_at(&first[0], Duration::ZERO).len(), 1);
        assert_eq!(fixture.names_at(&second[0], Duration::ZERO).len(), 1);
    }

    #[tokio::test]
    async fn time_to_live_is_bounded_and_the_pin_outlives_it() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let short = fixture.ask("ttl-0.example.", RecordType::A).await;
        assert_eq!(short.answers[0].ttl, 5);
        assert_eq!(
            fixture.names_at("203.0.113.1", Duration::from_secs(60)),
            ["ttl-0.example".parse().expect("a name")]
        );
        let long = fixture.ask("ttl-604800.example.", RecordType::A).await;
        assert_eq!(long.answers[0].ttl, 3600);
        let after = Duration::from_secs(3600 + 10 * 60);
        assert!(fixture.names_at("203.0.113.1", after).is_empty());
    }

    #[tokio::test]
    async fn alias_pins_the_name_that_was_asked_for() {
        let server = Server::start().await;
        let fixture = Fixture::new(
            vec![server.address],
            Mode::Restricted,
            &["allow alias.example"],
        );
        let answer = fixture.ask("alias.example.", RecordType::A).await;
        // The server put an address of another name into its answer as well.
        assert_eq!(addresses(&answer), ["203.0.113.5"]);
        assert_eq!(answer.answers.len(), 3);
        assert_eq!(
            fixture.names_at("203.0.113.5", Duration::ZERO),
            ["alias.example".parse().expect("a name")]
        );
        assert!(fixture.names_at("203.0.113.66", Duration::ZERO).is_empty());
    }

    #[tokio::test]
    async fn missing_name_is_told_with_its_authority() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let answer = fixture.ask("missing.example.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities.len(), 1);
        assert!(matches!(fixture.event(), Event::Dns { outcome, .. } if outcome == "NXDOMAIN"));
    }

    #[tokio::test]
    async fn other_types_of_record_pass() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let answer = fixture.ask("_text.example.", RecordType::TXT).await;
        assert!(matches!(&answer.answers[0].data, RData::TXT(_)));
        // Glue that a server adds is no answer.
        assert!(answer.additionals.is_empty());
    }

    #[tokio::test]
    async fn long_answer_is_truncated_for_datagrams_only() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let short = fixture.ask("long.example.", RecordType::A).await;
        assert!(short.metadata.truncation);
        assert!(short.answers.is_empty());
        let by_stream = fixture
            .send(&query("long.example.", RecordType::A), DnsTransport::Tcp)
            .await
            .expect("answered");
        assert!(!by_stream.metadata.truncation);
        assert_eq!(addresses(&by_stream).len(), 60);
        let larger = with_edns(query("long.example.", RecordType::A), 4096);
        let larger = fixture
            .send(&larger, DnsTransport::Udp)
            .await
            .expect("answered");
        assert_eq!(addresses(&larger).len(), 60);
    }

    #[tokio::test]
    async fn ipv6_addresses_are_kept_where_they_lead_nowhere() {
        let server = Server::start().await;
        let config = ResolverConfig {
            has_ipv6: false,
            ..config(vec![server.address])
        };
        let fixture = Fixture::with_config(config, Mode::Open, &[]);
        let answer = fixture.ask("good.example.", RecordType::AAAA).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        let answer = fixture.ask("good.example.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["203.0.113.1"]);
    }
}

mod refusals {
    use super::*;

    #[tokio::test]
    async fn denied_name_is_refused_without_asking_anyone() {
        let server = Server::start().await;
        let fixture = Fixture::new(
            vec![server.address],
            Mode::Restricted,
            &["allow good.example"],
        );
        let asked = with_edns(query("secret-data.evil.example.", RecordType::TXT), 1232);
        let answer = fixture
            .send(&asked, DnsTransport::Udp)
            .await
            .expect("answered");
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        let prohibited = [&[0, 18], &b"mode: restricted"[..]].concat();
        assert_eq!(extended_error(&answer), Some(prohibited));
        assert!(server.questions().is_empty());
        assert!(matches!(
            fixture.event(),
            Event::Dns { verdict, outcome, .. }
                if verdict == Verdict::denied("mode: restricted") && outcome == "REFUSED"
        ));
    }

    #[tokio::test]
    async fn changed_policy_has_its_effect_on_the_next_query() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Off, &[]);
        let before = fixture.ask("good.example.", RecordType::A).await;
        fixture.policy.set(&policy(Mode::Open, &[]));
        let after = fixture.ask("good.example.", RecordType::A).await;
        assert_eq!(before.metadata.response_code, ResponseCode::Refused);
        assert_eq!(after.metadata.response_code, ResponseCode::NoError);
    }

    #[tokio::test]
    async fn private_addresses_of_public_names_are_withheld() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let asked = with_edns(query("private.example.", RecordType::A), 1232);
        let answer = fixture
            .send(&asked, DnsTransport::Udp)
            .await
            .expect("answered");
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        assert_eq!(extended_error(&answer), Some(vec![0, 17]));
        assert!(answer.answers.is_empty());
        assert!(fixture.names_at("10.0.0.1", Duration::ZERO).is_empty());
        assert_eq!(
            fixture.event(),
            Event::Dns {
                name: "private.example".to_owned(),
                record_type: "A".to_owned(),
                verdict: Verdict::allowed("mode: open"),
                outcome: "REFUSED".to_owned(),
                addresses: Vec::new(),
                withheld: vec![address("10.0.0.1")],
            }
        );
    }

    #[tokio::test]
    async fn public_addresses_remain_when_others_are_withheld() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let answer = fixture.ask("mixed.example.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["203.0.113.1"]);
    }

    #[tokio::test]
    async fn private_address_is_told_when_a_rule_allows_it() {
        let server = Server::start().await;
        let rules = ["allow 10.0.0.0/8:5432"];
        let fixture = Fixture::new(vec![server.address], Mode::Open, &rules);
        let answer = fixture.ask("private.example.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["10.0.0.1"]);
    }

    #[tokio::test]
    async fn host_own_address_is_withheld() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let own = [address("203.0.113.1")];
        let bytes = query("good.example.", RecordType::A)
            .to_vec()
            .expect("written");
        let unknown = AwaitedCause::unknown();
        let answer = fixture
            .resolver
            .answer(&bytes, DnsTransport::Udp, &own, &unknown);
        let answer = Message::from_vec(&answer.await.expect("answered")).expect("readable");
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }

    #[tokio::test]
    async fn mapped_metadata_address_is_withheld() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let answer = fixture.ask("mapped.example.", RecordType::AAAA).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }

    #[tokio::test]
    async fn keys_that_hide_names_are_kept_where_names_are_judged() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Restricted, &["allow *.example"]);
        let answer = fixture.ask("good.example.", RecordType::HTTPS).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        fixture.policy.set(&policy(Mode::Open, &[]));
        let answer = fixture.ask("good.example.", RecordType::HTTPS).await;
        assert_eq!(answer.answers.len(), 1);
    }

    #[tokio::test]
    async fn any_and_zone_transfers_are_refused() {
        let fixture = Fixture::new(Vec::new(), Mode::Open, &[]);
        for record_type in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
            let answer = fixture.ask("good.example.", record_type).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        }
        let mut chaos = query("version.bind.", RecordType::TXT);
        chaos.queries[0].query_class = DNSClass::CH;
        let answer = fixture
            .send(&chaos, DnsTransport::Udp)
            .await
            .expect("answered");
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }

    #[tokio::test]
    async fn name_that_no_host_has_is_refused_and_printable() {
        let fixture = Fixture::new(Vec::new(), Mode::Open, &[]);
        let label: &[u8] = b"\x1b[31m\xffbell\x07";
        let name = WireName::from_labels([label, b"example"]).expect("a name on the wire");
        let mut asked = query("x.", RecordType::A);
        asked.queries = vec![Query::query(name, RecordType::A)];
        let answer = fixture
            .send(&asked, DnsTransport::Udp)
            .await
            .expect("answered");
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        let Event::Dns { name, .. } = fixture.event() else {
            panic!("another event");
        };
        assert!(
            name.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{name:?}"
        );
    }
}

mod own_names {
    use super::*;

    #[tokio::test]
    async fn host_and_gateway_are_answered_here() {
        let rules = ["allow host.smolvm.internal:8080"];
        let fixture = Fixture::new(Vec::new(), Mode::Restricted, &rules);
        let host = fixture.ask("host.smolvm.internal.", RecordType::A).await;
        assert_eq!(addresses(&host), ["10.0.2.2"]);
        let host = fixture.ask("host.smolvm.internal.", RecordType::AAAA).await;
        assert_eq!(addresses(&host), ["fd00:2::2"]);
        let gateway = fixture.ask("gateway.smolvm.internal.", RecordType::A).await;
        assert_eq!(addresses(&gateway), ["10.0.2.1"]);
        assert_eq!(
            fixture.names_at("10.0.2.2", Duration::ZERO),
            ["host.smolvm.internal".parse().expect("a name")]
        );
    }

    #[tokio::test]
    async fn other_names_of_the_domain_do_not_exist_anywhere() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let answer = fixture.ask("other.smolvm.internal.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert!(server.questions().is_empty());
    }

    #[tokio::test]
    async fn host_that_no_rule_names_is_refused_when_restricted() {
        let fixture = Fixture::new(Vec::new(), Mode::Restricted, &["allow *"]);
        let answer = fixture.ask("host.smolvm.internal.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }
}

mod bad_upstream {
    use super::*;

    #[tokio::test]
    async fn nobody_listening_is_a_failure_at_once() {
        let unused = server::unused_address().await;
        let fixture = Fixture::new(vec![unused], Mode::Open, &[]);
        let asked = with_edns(query("good.example.", RecordType::A), 1232);
        let answer = fixture
            .send(&asked, DnsTransport::Udp)
            .await
            .expect("answered");
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(extended_error(&answer), Some(vec![0, 22]));
        let Event::Dns { outcome, .. } = fixture.event() else {
            panic!("another event");
        };
        assert!(
            outcome.starts_with(&format!("SERVFAIL: no answer from {unused}: ")),
            "{outcome}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silent_server_is_a_failure_within_five_seconds() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let begin = tokio::time::Instant::now();
        let answer = fixture.ask("silent.example.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(begin.elapsed() < Duration::from_secs(5));
        let Event::Dns { outcome, .. } = fixture.event() else {
            panic!("another event");
        };
        assert_eq!(
            outcome,
            format!(
                "SERVFAIL: no answer from {} within its time",
                server.address
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn flood_beyond_the_questions_under_way_fails_at_once() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let flood = (0..200).map(|_| fixture.ask("silent.example.", RecordType::A));
        let answers = futures::future::join_all(flood).await;
        assert!(
            answers
                .iter()
                .all(|answer| answer.metadata.response_code == ResponseCode::ServFail)
        );
        let busy = "SERVFAIL: more than 128 questions at once";
        let is_busy = |record: &Record| matches!(&record.event, Event::Dns { outcome, .. } if outcome == busy);
        assert_eq!(
            std::iter::from_fn(|| fixture.events.next())
                .filter(is_busy)
                .count(),
            200 - 128
        );
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_is_no_answer() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let answer = fixture.ask("garbage.example.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn forged_answers_before_the_real_one_are_passed_over() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let answer = fixture.ask("forged.example.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["203.0.113.1"]);
    }

    #[tokio::test]
    async fn next_server_is_asked_when_one_fails() {
        let unused = server::unused_address().await;
        let server = Server::start().await;
        let fixture = Fixture::new(vec![unused, server.address], Mode::Open, &[]);
        let answer = fixture.ask("good.example.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["203.0.113.1"]);
    }

    #[tokio::test]
    async fn answer_of_a_server_that_could_not_find_out_is_passed_on() {
        let server = Server::start().await;
        let fixture = Fixture::new(vec![server.address], Mode::Open, &[]);
        let answer = fixture.ask("broken.example.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        // It was given a second chance.
        assert_eq!(server.questions().len(), 2);
    }
}

mod hostile_bytes {
    use super::*;

    #[tokio::test]
    async fn what_is_no_query_is_ignored_or_refused() {
        let fixture = Fixture::new(Vec::new(), Mode::Open, &[]);
        let (resolver, unknown) = (&fixture.resolver, AwaitedCause::unknown());
        assert_eq!(
            resolver.answer(&[], DnsTransport::Udp, &[], &unknown).await,
            None
        );
        assert_eq!(
            resolver
                .answer(&[0; 11], DnsTransport::Udp, &[], &unknown)
                .await,
            None
        );
        let mut response = query("good.example.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        assert_eq!(fixture.send(&response, DnsTransport::Udp).await, None);

        let mut update = query("good.example.", RecordType::A);
        update.metadata.op_code = OpCode::Status;
        let answer = fixture.send(&update, DnsTransport::Udp).await;
        assert_eq!(
            answer.expect("answered").metadata.response_code,
            ResponseCode::NotImp
        );
        let mut two = query("good.example.", RecordType::A);
        two.queries.push(two.queries[0].clone());
        let answer = fixture
            .send(&two, DnsTransport::Udp)
            .await
            .expect("answered");
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(answer.metadata.id, 4711);
    }

    fn answered(bytes: &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime");
        let fixture = Fixture::new(Vec::new(), Mode::Open, &[]);
        let unknown = AwaitedCause::unknown();
        let answer = runtime.block_on(fixture.resolver.answer(
            bytes,
            DnsTransport::Udp,
            &[],
            &unknown,
        ));
        if let Some(answer) = answer {
            assert!(answer.len() <= 1232);
            assert_eq!(answer.first_chunk::<2>(), bytes.first_chunk::<2>());
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            answered(&bytes);
        }

        #[test]
        fn mutated_query_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            length in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let asked = with_edns(query("host.smolvm.internal.", RecordType::A), 4096);
            let mut bytes = asked.to_vec().expect("written");
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if is_cut {
                bytes.truncate(length.index(bytes.len()));
            }
            answered(&bytes);
        }
    }
}
