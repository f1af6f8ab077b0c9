//! Gets the guest ready to be recorded: nothing of its start is still to come, and what it has
//! written is on its disk.

use std::sync::Arc;

use smolvm_protocol::message::Event;

use crate::conversation::{Conversation, Failure};
use crate::session::Environment;

pub(super) async fn run(
    host: &mut Conversation,
    environment: &Arc<Environment>,
) -> Result<(), Failure> {
    environment.start_finished().await;
    // The panic hook has reported a panic.
    tokio::task::spawn_blocking(rustix::fs::sync)
        .await
        .map_err(|_| Failure::HostGone)?;
    host.outgoing.send_event(&Event::Done).await
}
