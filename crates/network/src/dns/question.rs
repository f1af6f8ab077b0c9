//! What a guest asks, from bytes that may be anything.

use hickory_proto::op::{Edns, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use super::wire;
use crate::Name;

/// Bytes of a header (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;

/// A query with one question about the Internet class.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) id: u16,
    pub(super) query: Query,
    /// The name asked for, if it can be that of a host or a service.
    pub(super) name: Option<Name>,
    pub(super) is_recursion_desired: bool,
    pub(super) is_checking_disabled: bool,
    /// The extension of the query, which its answer then has as well (RFC 6891 §6.1.1).
    pub(super) edns: Option<Edns>,
}

/// Why bytes are not a question that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoQuestion {
    /// Not even a header, or an answer: nothing is sent back, as whoever gets an answer to an
    /// answer may answer it.
    Ignored,
    /// A query that is answered with this code and without a question.
    Refused { id: u16, code: ResponseCode },
}

impl Question {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NoQuestion> {
        let Some(&[id_high, id_low, flags, ..]) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(NoQuestion::Ignored);
        };
        let is_answer = flags & 0x80 != 0;
        if is_answer {
            return Err(NoQuestion::Ignored);
        }
        let id = u16::from_be_bytes([id_high, id_low]);
        let refused = |code| NoQuestion::Refused { id, code };
        let message = wire::decode(bytes).ok_or(refused(ResponseCode::FormErr))?;
        if message.metadata.op_code != OpCode::Query {
            return Err(refused(ResponseCode::NotImp));
        }
        let Ok([query]) = <[Query; 1]>::try_from(message.queries) else {
            return Err(refused(ResponseCode::FormErr));
        };
        Ok(Self {
            id,
            name: Name::from_ascii(&query.name.to_ascii()).ok(),
            is_recursion_desired: message.metadata.recursion_desired,
            is_checking_disabled: message.metadata.checking_disabled,
            edns: message.edns,
            query,
        })
    }

    /// Tells whether the gateway has answers to such questions: ANY and transfers of whole zones
    /// are not asked by programs that want to connect (RFC 8482), and other classes do not exist.
    pub(super) fn is_supported(&self) -> bool {
        let is_record = !matches!(
            self.query.query_type,
            RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::ZERO
        );
        is_record && self.query.query_class == DNSClass::IN
    }

    /// Tells whether DNSSEC records are asked for.
    pub(super) fn is_dnssec_ok(&self) -> bool {
        self.edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// Returns the name for the log: as it is, or what of it is printable.
    pub(super) fn printable_name(&self) -> String {
        const MAX_CHARACTERS: usize = 253;
        match &self.name {
            Some(name) => name.to_string(),
            None => self
                .query
                .name
                .to_ascii()
                .chars()
                .map(|character| match character {
                    ' '..='~' => character,
                    _ => '?',
                })
                .take(MAX_CHARACTERS)
                .collect(),
        }
    }
}
