//! Runs a command for as long as its stream lives. Dropping the stream kills everything the
//! command started.

use std::sync::Arc;
use std::time::Duration;

use smolvm_protocol::message::{Event, Exec};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::command::start::{self, HostEnds, RunningCommand};
use crate::command::supervise::Supervision;
use crate::conversation::{Conversation, Failure};
use crate::refusal;
use crate::session::Environment;

/// How long the kernel may take to execute a program; a program on a dead network file system
/// takes for ever.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A time that never comes, as far as a guest is concerned.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) async fn run(
    host: &mut Conversation,
    exec: Exec,
    environment: &Arc<Environment>,
) -> Result<(), Failure> {
    let time_up = time_up(&exec);
    let (running, ends) = start(exec, None, environment).await?;
    host.outgoing
        .send_event(&Event::Started { pid: running.pid() })
        .await?;
    let output = Mutex::new(&mut host.outgoing);
    let exit = Supervision::new(running, time_up)
        .run(ends, &mut host.incoming, &output)
        .await?;
    host.outgoing.send_event(&Event::Exited(exit)).await
}

/// Returns when the timeout of a command that starts now is over.
pub(super) fn time_up(exec: &Exec) -> Instant {
    Instant::now()
        + exec
            .timeout_ms
            .map_or(NEVER, Duration::from_millis)
            .min(NEVER)
}

/// Starts a command, that of `job` where it is one, giving up when the kernel takes too long.
pub(super) async fn start(
    exec: Exec,
    job: Option<String>,
    environment: &Arc<Environment>,
) -> Result<(RunningCommand, HostEnds), Failure> {
    let environment = Arc::clone(environment);
    let work = tokio::task::spawn_blocking(move || start::start(&exec, job, &environment));
    match tokio::time::timeout(START_DEADLINE, work).await {
        Ok(Ok(result)) => Ok(result?),
        // The panic hook has reported it.
        Ok(Err(_)) => Err(Failure::HostGone),
        // When it starts after all, its guard is dropped at once.
        Err(_) => {
            let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Err(refusal::about("command did not start", &error).into())
        }
    }
}
