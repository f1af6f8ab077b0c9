//! Sees a running command through to its end.
//!
//! ```text
//!   started --> running --main process ended--> draining --output taken--> exited
//!                  |                               ^
//!                  +--time up, kill asked: tree killed
//!                  +--dropped: tree killed
//! ```

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use futures::future::try_join_all;
use rustix::process::WaitStatus;
use smolvm_protocol::FrameKind;
use smolvm_protocol::message::{Exit, ExitReason, TerminalSize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::input::{FrameSource, HostEvent, Input};
use super::output::{FrameSink, OutputSource};
use super::start::{self, HostEnds, RunningCommand};
use crate::conversation::Failure;
use crate::refusal;

/// How long a killed process may take to end. One that waits for a broken disk does not end at
/// all, and is not waited for.
pub(crate) const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// A running command and what has become of it so far.
pub(crate) struct Supervision {
    running: RunningCommand,
    /// Changes to true when the main process has ended.
    ended: watch::Sender<bool>,
    time_up: Instant,
    /// Why the agent killed the command, and until when its end is waited for.
    killed: Option<(ExitReason, Instant)>,
    exit: Option<Exit>,
}

impl Supervision {
    /// Takes over a command that is to be killed at `time_up`.
    pub(crate) fn new(running: RunningCommand, time_up: Instant) -> Self {
        Self {
            running,
            ended: watch::Sender::new(false),
            time_up,
            killed: None,
            exit: None,
        }
    }

    /// Relays between the command and whoever is at the other end until the command has ended
    /// and its output is taken.
    ///
    /// # Errors
    ///
    /// When `frames` or `output` fail; the command is killed then.
    pub(crate) async fn run(
        mut self,
        ends: HostEnds,
        frames: &mut impl FrameSource,
        output: &impl FrameSink,
    ) -> Result<Exit, Failure> {
        let io_failed = |error| Failure::Refused(refusal::about("command", &error));
        let ends = Ends::new(ends).map_err(io_failed)?;
        let mut input =
            Input::new(frames, ends.input, ends.terminal.is_some()).map_err(io_failed)?;
        let pumps = ends
            .sources
            .into_iter()
            .map(|source| source.pump(output, self.ended.subscribe()));
        let mut pumps = pin!(try_join_all(pumps));
        let mut left_open = None;
        loop {
            let wake_up = self.killed.map_or(self.time_up, |(_, deadline)| deadline);
            tokio::select! {
                biased;
                status = &mut self.running.child.status, if self.exit.is_none() => {
                    self.note_end(status.ok());
                }
                () = sleep_until(wake_up), if self.exit.is_none() => self.time_passed(),
                sources = &mut pumps, if left_open.is_none() => left_open = Some(sources?),
                event = input.next() => self.obey(event, ends.terminal.as_ref())?,
            }
            if let (Some(exit), Some(sources)) = (self.exit, &mut left_open) {
                let sources = std::mem::take(sources);
                self.running.leave_daemons();
                for source in sources.into_iter().flatten() {
                    // Ends when the last daemon of the command has closed it.
                    tokio::spawn(source.discard());
                }
                return Ok(exit);
            }
        }
    }

    fn obey(&mut self, event: HostEvent, terminal: Option<&OwnedFd>) -> Result<(), Failure> {
        match event {
            HostEvent::Signal(number) => self.running.child.signal_group(number),
            HostEvent::Resize(size) => resize(terminal, size),
            HostEvent::Kill if self.exit.is_none() && self.killed.is_none() => {
                self.kill(ExitReason::Killed);
            }
            HostEvent::Kill => {}
            HostEvent::Over(failure) => return Err(failure),
        }
        Ok(())
    }

    fn time_passed(&mut self) {
        match self.killed {
            None => self.kill(ExitReason::TimedOut),
            Some(_) => self.note_end(None),
        }
    }

    fn kill(&mut self, reason: ExitReason) {
        self.killed = Some((reason, Instant::now() + KILL_DEADLINE));
        self.running.kill_tree();
    }

    /// Settles how the command ended. `status` is absent when the kernel does not get rid of it.
    fn note_end(&mut self, status: Option<WaitStatus>) {
        let elapsed = self.running.started.elapsed();
        let reason = match (self.killed, status) {
            (Some((reason, _)), _) => reason,
            (None, Some(status)) => natural_reason(status, self.running.oom_kills()),
            (None, None) => ExitReason::Killed,
        };
        self.exit = Some(Exit {
            reason,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        });
        self.ended.send_replace(true);
    }
}

/// A command that succeeded although a process of it was killed for want of memory has dealt with
/// that itself.
fn natural_reason(status: WaitStatus, oom_kills: u64) -> ExitReason {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => ExitReason::Exited { code: 0 },
        _ if oom_kills > 0 => ExitReason::OutOfMemory,
        (Some(code), _) => ExitReason::Exited { code },
        (None, signal) => ExitReason::Signalled {
            number: signal.unwrap_or(libc::SIGKILL),
        },
    }
}

fn resize(terminal: Option<&OwnedFd>, size: TerminalSize) {
    if let Some(terminal) = terminal {
        // A terminal that is hung up has no size.
        let _ = start::resize(terminal, size);
    }
}

/// The agent's ends of a command's input and output, ready to be waited for.
struct Ends {
    input: Option<OwnedFd>,
    sources: Vec<OutputSource>,
    terminal: Option<OwnedFd>,
}

impl Ends {
    fn new(ends: HostEnds) -> std::io::Result<Self> {
        match ends {
            HostEnds::Pipes {
                stdin,
                stdout,
                stderr,
            } => Ok(Self {
                input: stdin,
                sources: vec![
                    OutputSource::new(stdout, FrameKind::Output, false)?,
                    OutputSource::new(stderr, FrameKind::ErrorOutput, false)?,
                ],
                terminal: None,
            }),
            HostEnds::Terminal(controller) => Ok(Self {
                input: Some(controller.try_clone()?),
                terminal: Some(controller.try_clone()?),
                sources: vec![OutputSource::new(controller, FrameKind::Output, true)?],
            }),
        }
    }
}
