//! Jobs: commands in a sandbox that outlive the connection that started them.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::SplitStream;
use smolvm_protocol::message::{Event, JobStatus, MAX_JOBS, Request, StartJob};
use smolvm_protocol::{Frame, FrameError, FrameKind};

use crate::access::{Access, AccessError, Connection};
use crate::exec::{End, EndReason, ExecError, Output, ProcessInput, START_PATIENCE};
use crate::{Sandbox, SandboxId};

/// A job that somebody is attached to. Dropping it leaves the job as it is.
#[derive(Debug)]
pub struct AttachedJob {
    /// How the job was when it was attached to.
    pub status: JobStatus,
    /// The way into it. Input is shared with everybody else who is attached.
    pub input: ProcessInput,
    /// What comes out of it.
    pub output: JobOutput,
}

/// What comes out of a job, from some place on.
#[derive(Debug)]
pub struct JobOutput {
    access: Access,
    stream: SplitStream<Connection>,
    cursor: u64,
}

/// What comes out of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// Output, or the end of the job. The time it took is as the guest says.
    Output(Output),
    /// This many bytes of output are not kept any more.
    Lost(u64),
}

/// Returns a name for a job whose owner does not care.
#[must_use]
pub fn random_job_name() -> String {
    let random = SandboxId::random();
    format!("job-{}", random.as_str().trim_start_matches("vm-"))
}

impl Sandbox {
    /// Starts a job in the sandbox, which must be running, and returns its process ID there.
    ///
    /// # Errors
    ///
    /// When the sandbox is not running, the job's name is taken or not legal, there are too many
    /// jobs, or its command cannot be started.
    pub async fn start_job(&self, job: StartJob) -> Result<u32, ExecError> {
        let request = Frame::message(&Request::StartJob(job)).map_err(|error| match error {
            FrameError::TooLong { length, .. } => ExecError::TooLong { bytes: length },
            error => AccessError::Connection(error).into(),
        })?;
        let patience = START_PATIENCE;
        let (pid, mut connection) = tokio::time::timeout(patience, self.start_command(request))
            .await
            .map_err(|_| ExecError::NotStarted { patience })??;
        match self.answer(&mut connection).await? {
            Event::Done => Ok(pid),
            _ => Err(AccessError::Unexpected.into()),
        }
    }

    /// Attaches to a job whose first `cursor` bytes of output, of both outputs together, are
    /// known already.
    ///
    /// # Errors
    ///
    /// When there is no such job, it has not written that much, or the sandbox is not running.
    pub async fn attach_job(&self, id: &str, cursor: u64) -> Result<AttachedJob, AccessError> {
        let request = Request::AttachJob {
            id: id.to_owned(),
            cursor,
        };
        let mut connection = self.ask(&request).await?;
        let Event::Job(status) = self.answer(&mut connection).await? else {
            return Err(AccessError::Unexpected);
        };
        let (sink, stream) = connection.split();
        Ok(AttachedJob {
            status,
            input: ProcessInput::new(sink),
            output: JobOutput {
                access: self.access().clone(),
                stream,
                cursor,
            },
        })
    }

    /// Lists the jobs of the sandbox, by name.
    ///
    /// # Errors
    ///
    /// When the sandbox is not running.
    pub async fn list_jobs(&self) -> Result<Vec<JobStatus>, AccessError> {
        let mut connection = self.ask(&Request::ListJobs).await?;
        let mut jobs = Vec::new();
        loop {
            match self.answer(&mut connection).await? {
                Event::Job(job) if jobs.len() < MAX_JOBS => jobs.push(job),
                Event::Done => break,
                _ => return Err(AccessError::Unexpected),
            }
        }
        jobs.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(jobs)
    }

    /// Kills a job, if it runs, with everything it started, and forgets its output.
    ///
    /// # Errors
    ///
    /// When there is no such job or the sandbox is not running.
    pub async fn remove_job(&self, id: &str) -> Result<(), AccessError> {
        self.done(&Request::RemoveJob { id: id.to_owned() }).await
    }
}

impl JobOutput {
    /// Returns how many bytes of output, of both outputs together, were given out or are lost.
    /// Whoever attaches again with this cursor misses nothing and gets nothing twice.
    #[must_use]
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Returns what comes next; after [`Output::End`] nothing does. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the guest breaks the protocol.
    pub async fn next(&mut self) -> Result<JobEvent, AccessError> {
        let frame = match self.stream.next().await {
            Some(Ok(frame)) => frame,
            Some(Err(FrameError::Io(_))) | None => {
                let reason = EndReason::of_loss(&self.access).await;
                return Ok(end(reason, 0));
            }
            Some(Err(error)) => return Err(error.into()),
        };
        let length = u64::try_from(frame.payload.len()).unwrap_or(u64::MAX);
        match frame.kind {
            FrameKind::Output => {
                self.advance(length);
                Ok(JobEvent::Output(Output::Stdout(frame.payload)))
            }
            FrameKind::ErrorOutput => {
                self.advance(length);
                Ok(JobEvent::Output(Output::Stderr(frame.payload)))
            }
            FrameKind::Message => match frame.parse()? {
                Event::Lost { bytes } => {
                    self.advance(bytes);
                    Ok(JobEvent::Lost(bytes))
                }
                Event::Exited(exit) => Ok(end(EndReason::Guest(exit.reason), exit.elapsed_ms)),
                Event::Refused(refusal) => Err(AccessError::Refused(refusal)),
                _ => Err(AccessError::Unexpected),
            },
            FrameKind::Input | FrameKind::End => Err(AccessError::Unexpected),
        }
    }

    fn advance(&mut self, bytes: u64) {
        // Only a hostile guest claims that much.
        self.cursor = self.cursor.saturating_add(bytes);
    }
}

fn end(reason: EndReason, elapsed_ms: u64) -> JobEvent {
    JobEvent::Output(Output::End(End {
        reason,
        elapsed: Duration::from_millis(elapsed_ms),
    }))
}
