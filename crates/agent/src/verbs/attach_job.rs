//! Relays between a client and a job for as long as both live. The job goes on without the client.

use smolvm_protocol::message::{Control, Event};
use smolvm_protocol::{Frame, FrameKind, MAX_DATA_BYTES};
use tokio::sync::mpsc::error::SendError;
use tokio::time::timeout;

use crate::command::input::{RESET_CHECK_INTERVAL, event_of};
use crate::conversation::{Conversation, Failure, Incoming, Outgoing};
use crate::jobs::{Job, Piece};
use crate::refusal;
use crate::session::Environment;

pub(super) async fn run(
    host: &mut Conversation,
    id: &str,
    cursor: u64,
    environment: &Environment,
) -> Result<(), Failure> {
    let job = environment.jobs.find(id)?;
    let status = job.status();
    if cursor > status.written {
        let message = format!(
            "the cursor is at byte {cursor}, but the job has written {} so far",
            status.written
        );
        return Err(refusal::invalid(&message).into());
    }
    host.outgoing.send_event(&Event::Job(status)).await?;
    tokio::select! {
        result = follow(&job, cursor, &mut host.outgoing) => result,
        failure = forward(&job, &mut host.incoming) => Err(failure),
    }
}

/// Sends the job's output from `cursor` on, and in the end how the job ended.
async fn follow(job: &Job, mut cursor: u64, host: &mut Outgoing) -> Result<(), Failure> {
    let mut state = job.state();
    loop {
        let (piece, exit) = {
            let state = state.borrow_and_update();
            (state.output.read(cursor, MAX_DATA_BYTES), state.exit)
        };
        match (piece, exit) {
            (Some(Piece::Lost(bytes)), _) => {
                cursor += bytes;
                host.send_event(&Event::Lost { bytes }).await?;
            }
            (Some(Piece::Output(kind, bytes)), _) => {
                cursor += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                host.send(Frame::data(kind, bytes)).await?;
            }
            (None, Some(exit)) => return host.send_event(&Event::Exited(exit)).await,
            // The sender is in the job, so the wait does not fail.
            (None, None) => state.changed().await.map_err(|_| Failure::HostGone)?,
        }
    }
}

/// Passes on what the client sends until it is gone or breaks the protocol; the job takes no harm
/// from either.
async fn forward(job: &Job, host: &mut Incoming) -> Failure {
    loop {
        let frame = match host.next().await {
            Some(Ok(frame)) => frame,
            Some(Err(failure)) => return failure,
            None => return Failure::HostGone,
        };
        if let Err(failure) = check(job, &frame) {
            return failure;
        }
        if let Err(failure) = pass_on(job, frame, host).await {
            return failure;
        }
    }
}

fn check(job: &Job, frame: &Frame) -> Result<(), Failure> {
    match frame.kind {
        FrameKind::Message => {
            let control: Control = frame
                .parse()
                .map_err(|error| refusal::malformed(&error.to_string()))?;
            event_of(control).map(|_| ())
        }
        FrameKind::Input | FrameKind::End if job.takes_input() => Ok(()),
        FrameKind::Input | FrameKind::End => {
            Err(refusal::invalid("the job was started without input").into())
        }
        FrameKind::Output | FrameKind::ErrorOutput => {
            Err(refusal::malformed("output sent to the guest").into())
        }
    }
}

/// Waits while the job does not read. A client that resets the stream meanwhile is noticed.
async fn pass_on(job: &Job, frame: Frame, host: &Incoming) -> Result<(), Failure> {
    loop {
        match timeout(RESET_CHECK_INTERVAL, job.frames().reserve()).await {
            Ok(Ok(permit)) => {
                permit.send(frame);
                return Ok(());
            }
            // The job has ended; how, is on its way to the client.
            Ok(Err(SendError(()))) => return Ok(()),
            Err(_) if host.is_reset() => return Err(Failure::HostGone),
            Err(_) => {}
        }
    }
}
