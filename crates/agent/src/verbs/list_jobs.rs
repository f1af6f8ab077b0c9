//! Lists the jobs.

use smolvm_protocol::message::Event;

use crate::conversation::{Conversation, Failure};
use crate::session::Environment;

pub(super) async fn run(host: &mut Conversation, environment: &Environment) -> Result<(), Failure> {
    for job in environment.jobs.list() {
        host.outgoing.send_event(&Event::Job(job)).await?;
    }
    host.outgoing.send_event(&Event::Done).await
}
