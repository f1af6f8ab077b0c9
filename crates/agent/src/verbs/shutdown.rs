//! Begins the shutdown of the machine; `crate::shutdown` carries it out.

use std::sync::Arc;

use smolvm_protocol::message::Event;

use crate::conversation::{Conversation, Failure};
use crate::session::Environment;

pub(super) async fn run(
    host: &mut Conversation,
    environment: &Arc<Environment>,
) -> Result<(), Failure> {
    let answered = host.outgoing.send_event(&Event::Done).await;
    environment.request_shutdown();
    answered
}
