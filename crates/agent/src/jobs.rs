//! Jobs: commands that outlive the stream and the session that started them.
//!
//! ```text
//!   reserved --command started--> running --ended, output taken--> ended --removed--> (forgotten)
//!       |                            |
//!       +--not started: (forgotten)  +--removed: killed, then as above
//! ```
//!
//! A job's task owns its command. Clients attach and go as they like: they read its output from
//! the buffer, each at its own place, and what they send goes through one channel to the command.
//! A client that does not read never stops a job; the oldest output is lost instead.

mod buffer;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smolvm_protocol::message::{
    Control, Exit, ExitReason, JobStatus, MAX_JOB_BUFFER_BYTES, MAX_JOBS, Refusal, RefusalCode,
};
use smolvm_protocol::{Frame, FrameKind};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

pub(crate) use self::buffer::{OutputBuffer, Piece};
use crate::command::input::FrameSource;
use crate::command::output::FrameSink;
use crate::command::start::{HostEnds, RunningCommand};
use crate::command::supervise::{KILL_DEADLINE, Supervision};
use crate::conversation::Failure;
use crate::refusal;

/// Frames from clients that may wait for a job that does not read its input.
const WAITING_FRAMES: usize = 16;

/// How long the removal of a job waits for its end: the time that a killed command has, and as
/// much again for its last output.
const REMOVE_DEADLINE: Duration = KILL_DEADLINE.saturating_mul(2);

/// Longest name of a job, in characters.
const MAX_ID_LENGTH: usize = 64;

/// All jobs of the guest.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    /// By name.
    places: Mutex<BTreeMap<String, Place>>,
}

/// The place of a job among the others.
#[derive(Debug)]
struct Place {
    /// Output that the job keeps, at most.
    buffer_bytes: u32,
    /// Absent while its command is being started.
    job: Option<Arc<Job>>,
}

/// A place that is given back when it is dropped unused.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    jobs: &'a Jobs,
    id: String,
    buffer_bytes: u32,
    is_used: bool,
}

/// One job.
#[derive(Debug)]
pub(crate) struct Job {
    id: String,
    pid: u32,
    takes_input: bool,
    /// Where clients put input and control messages.
    frames: mpsc::Sender<Frame>,
    state: watch::Sender<JobState>,
    /// Turns true when the job is to end because it is removed.
    is_removed: watch::Sender<bool>,
}

/// What changes about a job.
#[derive(Debug)]
pub(crate) struct JobState {
    pub(crate) output: OutputBuffer,
    /// How the command ended. Set when all its output is in the buffer.
    pub(crate) exit: Option<Exit>,
}

/// A command that was started for a job.
#[derive(Debug)]
pub(crate) struct JobCommand {
    pub(crate) running: RunningCommand,
    pub(crate) ends: HostEnds,
    pub(crate) takes_input: bool,
    pub(crate) time_up: Instant,
}

impl Jobs {
    /// Takes a place for the job `id`, whose command is started next.
    ///
    /// # Errors
    ///
    /// When the name is not legal or taken, or there are too many jobs or too much output.
    pub(crate) fn reserve(&self, id: &str, buffer_bytes: u32) -> Result<Reservation<'_>, Refusal> {
        check_id(id)?;
        if buffer_bytes == 0 || buffer_bytes > MAX_JOB_BUFFER_BYTES {
            let message =
                format!("a job must keep 1 to {MAX_JOB_BUFFER_BYTES} bytes of its output");
            return Err(refusal::invalid(&message));
        }
        let mut places = self.lock();
        if places.contains_key(id) {
            let message = format!("there is a job {id} already; remove it first");
            return Err(refusal::refused(RefusalCode::AlreadyExists, &message));
        }
        let kept: u32 = places.values().map(|place| place.buffer_bytes).sum();
        let exhausted = if places.len() >= MAX_JOBS {
            Some(format!("there are {MAX_JOBS} jobs already"))
        } else if kept + buffer_bytes > MAX_JOB_BUFFER_BYTES {
            Some(format!(
                "jobs keep up to {kept} bytes of output already, and all together at most \
                 {MAX_JOB_BUFFER_BYTES}"
            ))
        } else {
            None
        };
        if let Some(reason) = exhausted {
            let message = format!("{reason}; remove some that have ended");
            return Err(refusal::refused(RefusalCode::ResourcesExhausted, &message));
        }
        let place = Place {
            buffer_bytes,
            job: None,
        };
        places.insert(id.to_owned(), place);
        Ok(Reservation {
            jobs: self,
            id: id.to_owned(),
            buffer_bytes,
            is_used: false,
        })
    }

    /// Returns the job `id`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Job>, Refusal> {
        check_id(id)?;
        let job = self.lock().get(id).and_then(|place| place.job.clone());
        job.ok_or_else(|| refusal::refused(RefusalCode::NotFound, &format!("no job {id}")))
    }

    /// Returns how every job is.
    pub(crate) fn list(&self) -> Vec<JobStatus> {
        let jobs: Vec<Arc<Job>> = self
            .lock()
            .values()
            .filter_map(|place| place.job.clone())
            .collect();
        jobs.iter().map(|job| job.status()).collect()
    }

    /// Kills the job `id`, if it runs, and forgets it.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), Refusal> {
        let job = self.find(id)?;
        job.is_removed.send_replace(true);
        let mut state = job.state.subscribe();
        // What the kernel does not get rid of in time is not waited for.
        let _ = timeout(
            REMOVE_DEADLINE,
            state.wait_for(|state| state.exit.is_some()),
        )
        .await;
        let mut places = self.lock();
        let is_same = |place: &Place| place.job.as_ref().is_some_and(|at| Arc::ptr_eq(at, &job));
        if places.get(id).is_some_and(is_same) {
            places.remove(id);
        }
        drop(places);
        job.state.send_modify(|state| {
            state.output.clear();
            state.exit.get_or_insert(Exit {
                reason: ExitReason::Killed,
                elapsed_ms: 0,
            });
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        // Each change is one call on the map: there is no state in between.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_id(id: &str) -> Result<(), Refusal> {
    let is_legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if (1..=MAX_ID_LENGTH).contains(&id.len()) && id.bytes().all(is_legal) {
        return Ok(());
    }
    Err(refusal::invalid(
        "the name of a job must be 1 to 64 of a-z, 0-9, - and _",
    ))
}

impl Reservation<'_> {
    /// Makes the job and sees its command through to the end in a task of its own.
    pub(crate) fn run(mut self, command: JobCommand) -> Arc<Job> {
        let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
        let limit = usize::try_from(self.buffer_bytes).unwrap_or(usize::MAX);
        let job = Arc::new(Job {
            id: self.id.clone(),
            pid: command.running.pid(),
            takes_input: command.takes_input,
            frames,
            state: watch::Sender::new(JobState {
                output: OutputBuffer::new(limit),
                exit: None,
            }),
            is_removed: watch::Sender::new(false),
        });
        let frames = JobFrames {
            frames: waiting,
            is_removed: job.is_removed.subscribe(),
            has_killed: false,
            has_input_ended: false,
        };
        tokio::spawn(see_through(Arc::clone(&job), command, frames));
        if let Some(place) = self.jobs.lock().get_mut(&self.id) {
            place.job = Some(Arc::clone(&job));
        }
        self.is_used = true;
        job
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_used {
            self.jobs.lock().remove(&self.id);
        }
    }
}

/// Runs a job to its end.
async fn see_through(job: Arc<Job>, command: JobCommand, mut frames: JobFrames) {
    let started = command.running.started;
    let result = Supervision::new(command.running, command.time_up)
        .run(command.ends, &mut frames, &*job)
        .await;
    // It fails when the job was removed while its input was blocked, and has killed it then.
    let exit = result.unwrap_or_else(|_| Exit {
        reason: ExitReason::Killed,
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    job.state.send_modify(|state| {
        state.exit.get_or_insert(exit);
    });
}

impl Job {
    /// Returns the process ID of its command.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether its command was started to read input.
    pub(crate) const fn takes_input(&self) -> bool {
        self.takes_input
    }

    /// Returns where input and control messages for its command go; closed when that has ended.
    pub(crate) const fn frames(&self) -> &mpsc::Sender<Frame> {
        &self.frames
    }

    /// Returns its state, to be read and waited for.
    pub(crate) fn state(&self) -> watch::Receiver<JobState> {
        self.state.subscribe()
    }

    /// Returns how it is.
    pub(crate) fn status(&self) -> JobStatus {
        let state = self.state.borrow();
        JobStatus {
            id: self.id.clone(),
            pid: self.pid,
            exit: state.exit,
            oldest: state.output.oldest(),
            written: state.output.written(),
        }
    }
}

impl FrameSink for Job {
    async fn take(&self, frame: Frame) -> Result<(), Failure> {
        self.state
            .send_modify(|state| state.output.write(frame.kind, &frame.payload));
        // There is always room; a job that writes without end still lets others run.
        tokio::task::consume_budget().await;
        Ok(())
    }
}

/// What all clients send to a job.
#[derive(Debug)]
struct JobFrames {
    frames: mpsc::Receiver<Frame>,
    is_removed: watch::Receiver<bool>,
    has_killed: bool,
    has_input_ended: bool,
}

impl FrameSource for JobFrames {
    async fn next(&mut self) -> Option<Result<Frame, Failure>> {
        loop {
            let frame = tokio::select! {
                biased;
                _ = self.is_removed.wait_for(|is_removed| *is_removed), if !self.has_killed => {
                    self.has_killed = true;
                    // A message this short has a frame.
                    return Some(Frame::message(&Control::Kill).map_err(|_| Failure::HostGone));
                }
                frame = self.frames.recv() => frame,
            };
            let Some(frame) = frame else {
                return pending().await;
            };
            let is_input = matches!(frame.kind, FrameKind::Input | FrameKind::End);
            // One client has closed the input, another does not know yet.
            if is_input && self.has_input_ended {
                continue;
            }
            self.has_input_ended |= frame.kind == FrameKind::End;
            return Some(Ok(frame));
        }
    }

    fn is_reset(&self) -> bool {
        *self.is_removed.borrow()
    }
}
