//! Kills a job and forgets it.

use smolvm_protocol::message::Event;

use crate::conversation::{Conversation, Failure};
use crate::session::Environment;

pub(super) async fn run(
    host: &mut Conversation,
    id: &str,
    environment: &Environment,
) -> Result<(), Failure> {
    environment.jobs.remove(id).await?;
    host.outgoing.send_event(&Event::Done).await
}
