//! Starts a command that outlives the stream.

use std::sync::Arc;

use smolvm_protocol::message::{Event, StartJob};

use super::exec;
use crate::conversation::{Conversation, Failure};
use crate::jobs::JobCommand;
use crate::session::Environment;

pub(super) async fn run(
    host: &mut Conversation,
    job: StartJob,
    environment: &Arc<Environment>,
) -> Result<(), Failure> {
    let place = environment.jobs.reserve(&job.id, job.buffer_bytes)?;
    let takes_input = job.exec.stdin || job.exec.terminal.is_some();
    let time_up = exec::time_up(&job.exec);
    let (running, ends) = exec::start(job.exec, Some(job.id), environment).await?;
    let job = place.run(JobCommand {
        running,
        ends,
        takes_input,
        time_up,
    });
    host.outgoing
        .send_event(&Event::Started { pid: job.pid() })
        .await?;
    host.outgoing.send_event(&Event::Done).await
}
