//! Messages from bytes and back, without a word.
//!
//! The library that reads and writes them warns in the log of what it finds odd. Whoever sends the
//! bytes decides what is odd and how often, and would fill the log.

use hickory_proto::op::Message;
use tracing::subscriber::{NoSubscriber, with_default};

pub(super) fn decode(bytes: &[u8]) -> Option<Message> {
    with_default(NoSubscriber::new(), || Message::from_vec(bytes).ok())
}

pub(super) fn encode(message: &Message) -> Option<Vec<u8>> {
    with_default(NoSubscriber::new(), || message.to_vec().ok())
}
