//! From a guest's query to its answer, the pins and the event.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};

use super::answer::{self, Answer, DnsTransport, ExtendedError};
use super::pins::Pins;
use super::question::{NoQuestion, Question};
use super::upstream::{Upstream, UpstreamConfig};
use crate::peer::{Peers, Resolved};
use crate::policy::{Decider, PolicyHandle};
use crate::{
    AwaitedCause, Event, EventSink, GATEWAY_NAME, HOST_NAME, Name, PeerName, RESERVED_DOMAIN,
    Verdict,
};

/// Seconds for which the gateway's own names are valid; they change only with the gateway.
const OWN_TTL_SECONDS: u32 = 60;

/// Seconds for which a peer's name is valid. Its address is the same as long as the gateway lives,
/// but a peer can come and go.
const PEER_TTL_SECONDS: u32 = 5;

/// How long an address stays pinned after what the guest was told: for connections that were
/// decided on before and are opened after.
const PIN_GRACE: Duration = Duration::from_secs(2 * 60);

/// What a resolver is told about its surroundings.
#[derive(Clone, Debug)]
pub struct ResolverConfig {
    /// Who is asked about other names.
    pub upstream: UpstreamConfig,
    /// Addresses that stand for the host's loopback in the guest's network: those of
    /// [`HOST_NAME`].
    pub host: Vec<IpAddr>,
    /// Addresses of the gateway in it: those of [`GATEWAY_NAME`].
    pub gateway: Vec<IpAddr>,
    /// Addresses of the guest in it: those of its own name, where it has peers.
    pub guest: Vec<IpAddr>,
    /// Whether the host reaches IPv6 addresses; without, the guest is told of none, and does not
    /// lose time with them.
    pub has_ipv6: bool,
}

/// The resolver of one sandbox.
#[derive(Debug)]
pub struct Resolver {
    config: ResolverConfig,
    upstream: Upstream,
    policy: PolicyHandle,
    pins: Pins,
    events: EventSink,
    /// Absent where the sandbox is in no network.
    peers: Option<Arc<Peers>>,
}

/// An answer, and what the log says about it.
struct Reply {
    answer: Answer,
    verdict: Verdict,
    withheld: Vec<IpAddr>,
    /// Why there is no answer, if that is not in its code.
    failure: Option<String>,
}

impl Reply {
    fn new(answer: Answer, verdict: Verdict) -> Self {
        Self {
            answer,
            verdict,
            withheld: Vec::new(),
            failure: None,
        }
    }

    /// Returns a refusal to ask.
    fn denied(verdict: Verdict) -> Self {
        let refused = Answer {
            error_text: Some(Arc::clone(&verdict.rule)),
            ..Answer::with_error(ResponseCode::Refused, ExtendedError::Prohibited)
        };
        Self::new(refused, verdict)
    }
}

impl Resolver {
    /// Returns a resolver.
    #[must_use]
    pub fn new(
        config: ResolverConfig,
        policy: PolicyHandle,
        pins: Pins,
        events: EventSink,
    ) -> Self {
        Self {
            upstream: Upstream::new(config.upstream.clone()),
            config,
            policy,
            pins,
            events,
            peers: None,
        }
    }

    /// Returns the same resolver with names for these peers. A name without a domain is then a
    /// peer's or nobody's, and never asked upstream.
    pub(crate) fn with_peers(mut self, peers: Option<Arc<Peers>>) -> Self {
        self.peers = peers;
        self
    }

    /// Answers a query of the guest's, and records it with its cause. `own` are the addresses of the
    /// host's interfaces.
    ///
    /// Returns nothing when the bytes are no query that could be answered. Takes at most 5 s.
    pub async fn answer(
        &self,
        query: &[u8],
        transport: DnsTransport,
        own: &[IpAddr],
        cause: &AwaitedCause,
    ) -> Option<Vec<u8>> {
        let question = match Question::parse(query) {
            Ok(question) => question,
            Err(NoQuestion::Ignored) => return None,
            Err(NoQuestion::Refused { id, code }) => {
                self.events.record_caused(unreadable(code), cause.clone());
                return answer::bare(id, code);
            }
        };
        let reply = self.reply(&question, own).await;
        self.pin(&question, &reply.answer);
        self.events
            .record_caused(event(&question, &reply), cause.clone());
        reply.answer.into_bytes(&question, transport)
    }

    async fn reply(&self, question: &Question, own: &[IpAddr]) -> Reply {
        let Some(name) = &question.name else {
            return Reply::denied(Verdict::denied("built-in: not the name of a host"));
        };
        if let Some(peers) = &self.peers
            && let Some(peer) = PeerName::meant_by(name)
        {
            return self.peer_reply(question, peers, peer).await;
        }
        let decider = self.policy.current();
        let verdict = decider.query(name);
        if !verdict.is_allowed {
            return Reply::denied(verdict);
        }
        if !question.is_supported() {
            return Reply::denied(Verdict::denied("built-in: type of query"));
        }
        if name.is_within(RESERVED_DOMAIN) {
            return Reply::new(self.own_answer(question, name), verdict);
        }
        if self.is_hidden(question.query.query_type, &decider) {
            return Reply::new(Answer::new(ResponseCode::NoError), verdict);
        }
        match self.upstream.look_up(question).await {
            Ok(message) => {
                let answer = Answer::from_upstream(question, message);
                self.filtered(answer, verdict, own)
            }
            Err(error) => Reply {
                failure: Some(error.to_string()),
                ..Reply::new(
                    Answer::with_error(ResponseCode::ServFail, ExtendedError::NoReachableAuthority),
                    verdict,
                )
            },
        }
    }

    /// Answers for the domain that is the gateway's.
    fn own_answer(&self, question: &Question, name: &Name) -> Answer {
        match name.as_str() {
            HOST_NAME => addresses(question, &self.config.host, OWN_TTL_SECONDS),
            GATEWAY_NAME => addresses(question, &self.config.gateway, OWN_TTL_SECONDS),
            RESERVED_DOMAIN => Answer::new(ResponseCode::NoError),
            _ => Answer::new(ResponseCode::NXDomain),
        }
    }

    /// Answers for a peer's name.
    async fn peer_reply(&self, question: &Question, peers: &Peers, peer: PeerName) -> Reply {
        let names = peer.dns_names();
        let resolved = peers.resolve(peer).await;
        let network = match &resolved {
            Resolved::Member(peer, _) => Some(&*peer.network),
            _ => None,
        };
        let verdict = self.policy.current().peer_query(&names, network);
        if !verdict.is_allowed {
            return Reply::denied(verdict);
        }
        let answer = match resolved {
            Resolved::Own => addresses(question, &self.config.guest, PEER_TTL_SECONDS),
            Resolved::Member(_, address) => {
                addresses(question, &[address.into()], PEER_TTL_SECONDS)
            }
            Resolved::Nobody => Answer::new(ResponseCode::NXDomain),
            Resolved::Full => Answer::with_error(ResponseCode::ServFail, ExtendedError::NotReady),
        };
        Reply::new(answer, verdict)
    }

    /// Tells whether records of this type are kept from the guest, as if there were none: IPv6
    /// addresses that lead nowhere, and the keys by which it could hide the name it connects to
    /// (encrypted ClientHello, in HTTPS and SVCB records: RFC 9848) where that name is judged.
    fn is_hidden(&self, record_type: RecordType, decider: &Decider) -> bool {
        match record_type {
            RecordType::AAAA => !self.config.has_ipv6,
            RecordType::HTTPS | RecordType::SVCB => decider.judges_shown_names(),
            _ => false,
        }
    }

    /// Takes out what the guest must not be told. The policy may have changed meanwhile.
    fn filtered(&self, mut answer: Answer, verdict: Verdict, own: &[IpAddr]) -> Reply {
        let decider = self.policy.current();
        let withheld = answer.withhold(|address| decider.answer(address, own).is_allowed);
        if !withheld.is_empty() && answer.addresses().next().is_none() {
            answer = Answer::with_error(ResponseCode::Refused, ExtendedError::Filtered);
        }
        Reply {
            withheld,
            ..Reply::new(answer, verdict)
        }
    }

    fn pin(&self, question: &Question, answer: &Answer) {
        let Some(name) = &question.name else { return };
        let now = Instant::now();
        for (address, ttl_seconds) in answer.addresses() {
            let until = now + Duration::from_secs(ttl_seconds.into()) + PIN_GRACE;
            self.pins.pin(address, name, until, now);
        }
    }
}

/// Returns the answer with those of the addresses that are of the type asked for.
fn addresses(question: &Question, addresses: &[IpAddr], ttl_seconds: u32) -> Answer {
    let records = addresses
        .iter()
        .map(|&address| match address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        })
        .filter(|data| data.record_type() == question.query.query_type)
        .map(|data| Record::from_rdata(question.query.name.clone(), ttl_seconds, data))
        .collect();
    Answer {
        records,
        ..Answer::new(ResponseCode::NoError)
    }
}

fn event(question: &Question, reply: &Reply) -> Event {
    let code = code_name(reply.answer.code);
    Event::Dns {
        name: question.printable_name(),
        record_type: question.query.query_type.to_string(),
        verdict: reply.verdict.clone(),
        outcome: match &reply.failure {
            Some(failure) => format!("{code}: {failure}"),
            None => code,
        },
        addresses: reply
            .answer
            .addresses()
            .map(|(address, _)| address)
            .collect(),
        withheld: reply.withheld.clone(),
    }
}

/// Returns the event of a query in which there is no question.
fn unreadable(code: ResponseCode) -> Event {
    Event::Dns {
        name: String::new(),
        record_type: String::new(),
        verdict: Verdict::denied("built-in: not a query"),
        outcome: code_name(code),
        addresses: Vec::new(),
        withheld: Vec::new(),
    }
}

/// Returns the name by which tools show a code (IANA DNS RCODEs).
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}
