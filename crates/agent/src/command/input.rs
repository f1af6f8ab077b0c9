//! What the host sends while a command runs: its input, and control messages between.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Buf, Bytes};
use smolvm_protocol::message::{Control, TerminalSize};
use smolvm_protocol::{Frame, FrameKind};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::conversation::{Failure, Incoming};
use crate::refusal;
use crate::sys::signals::MAX_SIGNAL;
use crate::sys::watch::watch;

/// Input that may wait for a command that does not read, in bytes. Control messages behind more
/// than that wait too; a reset of the stream does not.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// How often a stream that is not read, because its command does not read, is asked whether the
/// host has reset it: yamux wakes readers only.
pub(crate) const RESET_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The character that ends the input of a terminal in line mode (termios(3), VEOF).
const END_OF_TRANSMISSION: &[u8] = &[0x04];

/// What the host wants of a running command.
#[derive(Debug)]
pub(crate) enum HostEvent {
    Signal(i32),
    Resize(TerminalSize),
    Kill,
    /// The host has dropped the stream or broken the protocol; nothing more comes.
    Over(Failure),
}

/// Where input and control messages come from.
pub(crate) trait FrameSource: Send {
    /// Returns the next frame, or `None` when the host has ended its side.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    fn next(&mut self) -> impl Future<Output = Option<Result<Frame, Failure>>> + Send;

    /// Returns whether the host is gone, even if input is still unread.
    fn is_reset(&self) -> bool;
}

impl FrameSource for Incoming {
    async fn next(&mut self) -> Option<Result<Frame, Failure>> {
        Self::next(self).await
    }

    fn is_reset(&self) -> bool {
        Self::is_reset(self)
    }
}

/// The host's side of a command's input.
#[derive(Debug)]
pub(crate) struct Input<'a, S> {
    frames: &'a mut S,
    /// Where input goes; absent once the command or the host has closed it.
    sink: Option<AsyncFd<OwnedFd>>,
    is_terminal: bool,
    /// Whether the request announced input.
    is_expected: bool,
    waiting: VecDeque<Bytes>,
    has_ended: bool,
}

impl<'a, S: FrameSource> Input<'a, S> {
    /// `sink` is the agent's end of the command's standard input or terminal and does not block.
    pub(crate) fn new(
        frames: &'a mut S,
        sink: Option<OwnedFd>,
        is_terminal: bool,
    ) -> io::Result<Self> {
        let is_expected = sink.is_some();
        let sink = sink
            .map(|sink| watch(sink, Interest::WRITABLE))
            .transpose()?;
        Ok(Self {
            frames,
            sink,
            is_terminal,
            is_expected,
            waiting: VecDeque::new(),
            has_ended: false,
        })
    }

    /// Passes input on until the host wants something else, and returns that.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> HostEvent {
        loop {
            if self.has_ended && self.waiting.is_empty() {
                self.sink = None;
            }
            let waiting_bytes: usize = self.waiting.iter().map(Bytes::len).sum();
            let has_room = waiting_bytes < MAX_WAITING_BYTES;
            tokio::select! {
                frame = self.frames.next(), if has_room => {
                    let frame = frame.unwrap_or(Err(Failure::HostGone));
                    match frame.and_then(|frame| self.take(frame.kind, frame)) {
                        Ok(Some(event)) => return event,
                        Ok(None) => {}
                        Err(failure) => return HostEvent::Over(failure),
                    }
                }
                is_open = write_some(self.sink.as_ref(), &mut self.waiting) => if !is_open {
                    self.sink = None;
                    self.waiting.clear();
                },
                () = tokio::time::sleep(RESET_CHECK_INTERVAL), if !has_room => {
                    if self.frames.is_reset() {
                        return HostEvent::Over(Failure::HostGone);
                    }
                }
            }
        }
    }

    fn take(&mut self, kind: FrameKind, frame: Frame) -> Result<Option<HostEvent>, Failure> {
        match kind {
            FrameKind::Message => {
                let control = frame
                    .parse()
                    .map_err(|error| refusal::malformed(&error.to_string()))?;
                Ok(Some(event_of(control)?))
            }
            FrameKind::Input if self.has_ended || !self.is_expected => {
                Err(refusal::malformed("input that was not announced, or after its end").into())
            }
            FrameKind::Input => {
                if self.sink.is_some() && !frame.payload.is_empty() {
                    self.waiting.push_back(frame.payload);
                }
                Ok(None)
            }
            FrameKind::End => {
                if self.is_terminal && self.sink.is_some() && !self.has_ended {
                    self.waiting
                        .push_back(Bytes::from_static(END_OF_TRANSMISSION));
                }
                self.has_ended = true;
                Ok(None)
            }
            FrameKind::Output | FrameKind::ErrorOutput => {
                Err(refusal::malformed("output sent to the guest").into())
            }
        }
    }
}

pub(crate) fn event_of(control: Control) -> Result<HostEvent, Failure> {
    match control {
        Control::Signal { number } if (1..=MAX_SIGNAL).contains(&number) => {
            Ok(HostEvent::Signal(number))
        }
        Control::Signal { .. } => Err(refusal::malformed("a signal must be 1 to 64").into()),
        Control::Resize(size) => Ok(HostEvent::Resize(size)),
        Control::Kill => Ok(HostEvent::Kill),
    }
}

/// Writes what the command takes of `waiting`, and returns whether it still takes any. Never
/// ready while there is nothing to write.
async fn write_some(sink: Option<&AsyncFd<OwnedFd>>, waiting: &mut VecDeque<Bytes>) -> bool {
    let (Some(sink), Some(first)) = (sink, waiting.front_mut()) else {
        return pending().await;
    };
    let Ok(mut guard) = sink.writable().await else {
        return false;
    };
    let result = guard.try_io(|sink| Ok(rustix::io::write(sink.get_ref(), first)?));
    match result {
        Ok(Ok(count)) => {
            first.advance(count);
            if first.is_empty() {
                waiting.pop_front();
            }
            true
        }
        Ok(Err(error)) => error.kind() == io::ErrorKind::Interrupted,
        Err(_would_block) => true,
    }
}
