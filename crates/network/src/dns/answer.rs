//! What a guest is answered.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};

use super::question::Question;
use super::wire;

/// Bytes of a UDP answer when the guest does not say what it takes (RFC 1035 §2.3.4).
const MIN_UDP_BYTES: u16 = 512;

/// Bytes of a UDP answer at most: what passes everywhere without fragments (DNS flag day 2020).
pub(super) const MAX_UDP_BYTES: u16 = 1232;

/// Addresses that are taken from one answer, at most. What asks for a name tries a few of them.
const MAX_ADDRESSES: usize = 64;

/// Aliases that are followed, at most, as resolvers do.
const MAX_ALIASES: usize = 16;

/// Bounds of the time to live of what the guest is told, in seconds. The lower one keeps a guest
/// from asking all the time, the upper one makes it ask again after a rule has changed.
const MIN_TTL_SECONDS: u32 = 5;
const MAX_TTL_SECONDS: u32 = 60 * 60;

/// What a query came by, and its answer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTransport {
    /// In a datagram: an answer may be too long for it.
    Udp,
    /// In a stream, where messages have their length in front, which is the caller's business.
    Tcp,
}

/// Why there is no answer, for those who understand (RFC 8914).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtendedError {
    /// The policy does not let the guest ask (§4.19).
    Prohibited = 18,
    /// The policy does not let it have the answer (§4.18).
    Filtered = 17,
    /// The gateway cannot answer now (§4.15).
    NotReady = 14,
    /// Nobody to ask has answered (§4.23).
    NoReachableAuthority = 22,
}

/// An answer, before it has bytes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) records: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) error: Option<ExtendedError>,
    /// What the error tells people besides its number: the rule that decided.
    pub(super) error_text: Option<Arc<str>>,
}

impl Answer {
    pub(super) fn new(code: ResponseCode) -> Self {
        Self {
            code,
            records: Vec::new(),
            authorities: Vec::new(),
            error: None,
            error_text: None,
        }
    }

    pub(super) fn with_error(code: ResponseCode, error: ExtendedError) -> Self {
        Self {
            error: Some(error),
            ..Self::new(code)
        }
    }

    /// Returns what an upstream's message answers to the question: its records, the aliases that
    /// lead to them, and what tells for how long there are none.
    pub(super) fn from_upstream(question: &Question, message: Message) -> Self {
        let owners = owners(&question.query.name, &message.answers);
        let wanted = question.query.query_type;
        let belongs = |record: &Record| {
            let kind = record.record_type();
            let is_asked = kind == wanted || kind == RecordType::CNAME || kind == RecordType::RRSIG;
            is_asked && owners.contains(&record.name)
        };
        let bounded = |mut record: Record| {
            record.ttl = record.ttl.clamp(MIN_TTL_SECONDS, MAX_TTL_SECONDS);
            record
        };
        let mut addresses = 0;
        let is_within_bounds = |record: &Record| {
            addresses += usize::from(address_of(record).is_some());
            addresses <= MAX_ADDRESSES
        };
        Self {
            code: match message.metadata.response_code {
                code @ (ResponseCode::NoError | ResponseCode::NXDomain) => code,
                // Whatever went wrong there, to the guest it is the same; REFUSED is the policy's.
                _ => ResponseCode::ServFail,
            },
            records: message
                .answers
                .into_iter()
                .filter(belongs)
                .filter(is_within_bounds)
                .map(bounded)
                .collect(),
            authorities: message
                .authorities
                .into_iter()
                .filter(|record| record.record_type() == RecordType::SOA)
                .map(bounded)
                .collect(),
            error: None,
            error_text: None,
        }
    }

    /// Returns the addresses with the seconds for which they are valid.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.records
            .iter()
            .filter_map(|record| Some((address_of(record)?, record.ttl)))
    }

    /// Takes out the addresses that are not to be told, and returns them.
    pub(super) fn withhold(&mut self, may_tell: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let withheld: Vec<IpAddr> = self
            .addresses()
            .map(|(address, _)| address)
            .filter(|&address| !may_tell(address))
            .collect();
        self.records
            .retain(|record| address_of(record).is_none_or(|found| !withheld.contains(&found)));
        withheld
    }

    /// Returns the bytes for the guest.
    pub(super) fn into_bytes(
        self,
        question: &Question,
        transport: DnsTransport,
    ) -> Option<Vec<u8>> {
        let mut message = Message::new(question.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = question.is_recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = question.is_checking_disabled;
        message.metadata.response_code = self.code;
        message.queries = vec![question.query.clone()];
        message.answers = self.records;
        message.authorities = self.authorities;
        message.edns = question.edns.as_ref().map(|edns| {
            let mut answered = Edns::new();
            answered.set_max_payload(MAX_UDP_BYTES);
            answered.set_dnssec_ok(edns.flags().dnssec_ok);
            if let Some(error) = self.error {
                let text = self.error_text.as_deref().unwrap_or_default();
                answered.options_mut().insert(error.option(text));
            }
            answered
        });
        let bytes = wire::encode(&message)?;
        let limit = question
            .edns
            .as_ref()
            .map_or(MIN_UDP_BYTES, |edns| edns.max_payload())
            .clamp(MIN_UDP_BYTES, MAX_UDP_BYTES);
        if transport == DnsTransport::Tcp || bytes.len() <= usize::from(limit) {
            return Some(bytes);
        }
        // Without its records, the answer says only that there is more by TCP (RFC 2181 §9).
        message.metadata.truncation = true;
        message.answers.clear();
        message.authorities.clear();
        wire::encode(&message)
    }
}

impl ExtendedError {
    /// Code of the option (RFC 8914 §2), whose value is the number of the error.
    const OPTION_CODE: u16 = 15;

    fn option(self, text: &str) -> EdnsOption {
        let number = self as u16;
        let value = [&number.to_be_bytes(), text.as_bytes()].concat();
        EdnsOption::Unknown(Self::OPTION_CODE, value)
    }
}

/// Returns the answer to a query that has no question to repeat.
pub(super) fn bare(id: u16, code: ResponseCode) -> Option<Vec<u8>> {
    wire::encode(&Message::error_msg(id, OpCode::Query, code))
}

fn address_of(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// Returns the name and the aliases that lead on from it.
fn owners(name: &WireName, records: &[Record]) -> Vec<WireName> {
    let mut owners = vec![name.clone()];
    while owners.len() <= MAX_ALIASES {
        let next = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target)
                if owners.last() == Some(&record.name) && !owners.contains(&target.0) =>
            {
                Some(target.0.clone())
            }
            _ => None,
        });
        match next {
            Some(target) => owners.push(target),
            None => break,
        }
    }
    owners
}
