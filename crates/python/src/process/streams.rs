//! What has come out of a command and has not been read yet, in bounded memory.
//!
//! ```text
//!   guest --> [pump] --> [`Streams`]: two buffers and the end --> readers, waiters
//! ```
//!
//! The pump stops reading the connection while a buffer is full, and so the command waits, as it
//! does with a pipe. Nobody waits with the lock held.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use smolvm_sandbox::message::ExitReason;
use smolvm_sandbox::{End, EndReason, Output, ProcessOutput};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::failure::{Failure, chain};

/// Bytes of each output that wait for a reader: what a command writes in a moment. A whole line of
/// up to this many bytes can be read as one.
pub(crate) const BUFFER_BYTES: usize = 1024 * 1024;

/// One of a command's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Stdout,
    Stderr,
}

/// Where a piece of output ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Wherever, after at most this many bytes: 4 or more, which hold any character.
    UpTo(usize),
    /// After a line's end.
    Line,
}

/// One output.
#[derive(Debug, Default)]
struct Buffer {
    bytes: BytesMut,
    /// Whether what arrives is dropped.
    is_discarded: bool,
}

#[derive(Debug)]
struct State {
    stdout: Buffer,
    stderr: Buffer,
    end: Option<End>,
}

impl State {
    const fn buffer(&mut self, which: Which) -> &mut Buffer {
        match which {
            Which::Stdout => &mut self.stdout,
            Which::Stderr => &mut self.stderr,
        }
    }
}

/// The outputs and the end of one command.
#[derive(Debug)]
pub(crate) struct Streams {
    state: Mutex<State>,
    /// Something has arrived, been read or ended.
    changed: Notify,
    /// Somebody has given the command up.
    abandoned: Notify,
    /// Whether text is read: no piece ends inside a character.
    is_text: bool,
    started: Instant,
}

impl Streams {
    pub(crate) fn new(is_text: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                stdout: Buffer::default(),
                stderr: Buffer::default(),
                end: None,
            }),
            changed: Notify::new(),
            abandoned: Notify::new(),
            is_text,
            started: Instant::now(),
        })
    }

    pub(crate) const fn is_text(&self) -> bool {
        self.is_text
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something, and looks again after every change.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    /// Takes in all that comes out of the command, as fast as it is read.
    pub(crate) async fn pump(&self, mut output: ProcessOutput) {
        loop {
            let next = tokio::select! {
                next = output.next() => next,
                () = self.abandoned.notified() => return self.finish(ExitReason::Killed),
            };
            let (which, bytes) = match next {
                Ok(Output::Stdout(bytes)) => (Which::Stdout, bytes),
                Ok(Output::Stderr(bytes)) => (Which::Stderr, bytes),
                Ok(Output::End(end)) => return self.set_end(end),
                Err(error) => {
                    return self.set_end(End {
                        reason: EndReason::GuestDied {
                            message: chain(&error),
                            console_tail: Vec::new(),
                        },
                        elapsed: self.started.elapsed(),
                    });
                }
            };
            let taken = self.until(|state| {
                let buffer = state.buffer(which);
                let has_room = buffer.is_discarded || buffer.bytes.len() < BUFFER_BYTES;
                if has_room && !buffer.is_discarded {
                    buffer.bytes.extend_from_slice(&bytes);
                }
                has_room.then_some(())
            });
            tokio::select! {
                () = taken => self.changed.notify_waiters(),
                () = self.abandoned.notified() => return self.finish(ExitReason::Killed),
            }
        }
    }

    fn finish(&self, reason: ExitReason) {
        self.set_end(End {
            reason: EndReason::Guest(reason),
            elapsed: self.started.elapsed(),
        });
    }

    fn set_end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_waiters();
    }

    /// Has the pump end without the guest's word.
    pub(crate) fn abandon(&self) {
        self.abandoned.notify_one();
    }

    /// Returns how the command ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// Waits until the command has ended.
    pub(crate) async fn ended(&self) -> End {
        self.until(|state| state.end.clone()).await
    }

    /// Waits for the end, at most for `patience`.
    pub(crate) async fn ended_within(&self, patience: Option<Duration>) -> Option<End> {
        match patience {
            None => Some(self.ended().await),
            Some(patience) => tokio::time::timeout(patience, self.ended()).await.ok(),
        }
    }

    /// Returns whether the command waits for one of its outputs to be read.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.lock();
        [&state.stdout, &state.stderr]
            .iter()
            .any(|buffer| buffer.bytes.len() >= BUFFER_BYTES)
    }

    /// Drops what an output has and will have.
    pub(crate) fn discard(&self, which: Which) {
        let mut state = self.lock();
        let buffer = state.buffer(which);
        buffer.is_discarded = true;
        buffer.bytes = BytesMut::new();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns the next piece of an output; an empty one at its end. Cancelling loses nothing.
    pub(crate) async fn read(&self, which: Which, piece: Piece) -> BytesMut {
        let is_text = self.is_text;
        let bytes = self
            .until(|state| {
                let is_over = state.end.is_some();
                let bytes = &mut state.buffer(which).bytes;
                let length = match piece_length(bytes, piece, is_text) {
                    None if !is_over => return None,
                    // The last line has no end, the last character may be cut off.
                    None => bytes.len().min(limit(piece)),
                    Some(length) => length,
                };
                Some(bytes.split_to(length))
            })
            .await;
        self.changed.notify_waiters();
        bytes
    }

    /// Returns the next piece of either output; `None` when both are over.
    pub(crate) async fn read_any(&self) -> Option<(Which, BytesMut)> {
        let is_text = self.is_text;
        let next = self
            .until(|state| {
                let is_over = state.end.is_some();
                for which in [Which::Stdout, Which::Stderr] {
                    let bytes = &mut state.buffer(which).bytes;
                    let length = match piece_length(bytes, Piece::UpTo(BUFFER_BYTES), is_text) {
                        None if is_over => bytes.len(),
                        None => 0,
                        Some(length) => length,
                    };
                    if length > 0 {
                        return Some(Some((which, bytes.split_to(length))));
                    }
                }
                is_over.then_some(None)
            })
            .await;
        self.changed.notify_waiters();
        next
    }

    /// Returns all the rest of an output; refuses one of more than `max_bytes`.
    pub(crate) async fn read_all(
        &self,
        which: Which,
        max_bytes: usize,
    ) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        loop {
            let piece = self.read(which, Piece::UpTo(BUFFER_BYTES)).await;
            if piece.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&piece);
            if all.len() > max_bytes {
                return Err(Failure::TooMuchOutput { max_bytes });
            }
        }
    }
}

const fn limit(piece: Piece) -> usize {
    match piece {
        Piece::UpTo(bytes) => bytes,
        Piece::Line => BUFFER_BYTES,
    }
}

/// Returns how long the next whole piece is; `None` while it may still grow into one.
fn piece_length(bytes: &[u8], piece: Piece, is_text: bool) -> Option<usize> {
    let limit = limit(piece);
    if piece == Piece::Line {
        let line = bytes.iter().take(limit).position(|byte| *byte == b'\n');
        if let Some(end) = line {
            return Some(end + 1);
        }
        // A longer line comes in pieces.
        if bytes.len() < limit {
            return None;
        }
    }
    let length = bytes.len().min(limit);
    let length = if is_text {
        whole_characters(&bytes[..length])
    } else {
        length
    };
    (length > 0).then_some(length)
}

/// Returns how many bytes there are without a UTF-8 character that only begins at their end.
fn whole_characters(bytes: &[u8]) -> usize {
    // A character has at most 4 bytes, so one that is cut off begins among the last 3.
    let tail = bytes.len().saturating_sub(3);
    for (index, byte) in bytes.iter().enumerate().skip(tail).rev() {
        let length = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        return if index + length > bytes.len() {
            index
        } else {
            bytes.len()
        };
    }
    bytes.len()
}
