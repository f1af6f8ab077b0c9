//! The latest output of a job, for as many readers as want it, each at a place of its own.
//!
//! Places are counted in bytes from the job's first, of both outputs together, so that whoever
//! attaches again can say what it has seen.

use std::collections::VecDeque;

use bytes::Bytes;
use smolvm_protocol::FrameKind;

/// Fewest bytes that a change between the two outputs counts for. A job that alternates between
/// them in smaller pieces has less of its output kept, since each change takes memory too.
const BYTES_PER_RUN: usize = 64;

/// The latest output of a job.
#[derive(Debug)]
pub(crate) struct OutputBuffer {
    bytes: VecDeque<u8>,
    /// Which output the bytes are of; never two runs of one kind in a row, never an empty one.
    runs: VecDeque<Run>,
    /// Most bytes that are kept.
    limit: usize,
    /// The place of the first byte that is kept.
    oldest: u64,
    /// The place after the last byte.
    written: u64,
}

/// Bytes in a row that are of one output.
#[derive(Clone, Copy, Debug)]
struct Run {
    kind: FrameKind,
    /// The place after its last byte.
    end: u64,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of one output.
    Output(FrameKind, Bytes),
    /// This many bytes that are not kept any more.
    Lost(u64),
}

impl OutputBuffer {
    /// Returns a buffer that keeps the last `limit` bytes. Takes memory as output comes only.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            runs: VecDeque::new(),
            limit,
            oldest: 0,
            written: 0,
        }
    }

    /// Returns the place of the oldest byte that is kept.
    pub(crate) const fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Returns how many bytes were written so far.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Adds output, at the cost of the oldest.
    pub(crate) fn write(&mut self, kind: FrameKind, output: &[u8]) {
        if output.is_empty() {
            return;
        }
        self.written += length(output.len());
        match self.runs.back_mut() {
            Some(run) if run.kind == kind => run.end = self.written,
            _ => self.runs.push_back(Run {
                kind,
                end: self.written,
            }),
        }
        let kept = &output[output.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.make_room(kept.len());
        self.bytes.extend(kept);
        self.note_dropped();
        if self.runs.len() > (self.limit / BYTES_PER_RUN).max(2) {
            self.drop_oldest_run();
        }
    }

    /// Forgets everything that was written, and what it took.
    pub(crate) fn clear(&mut self) {
        self.bytes = VecDeque::new();
        self.runs = VecDeque::new();
        self.oldest = self.written;
    }

    /// Returns what comes at the place `cursor`, at most `max_bytes` of output; `None` at the end.
    pub(crate) fn read(&self, cursor: u64, max_bytes: usize) -> Option<Piece> {
        if cursor < self.oldest {
            return Some(Piece::Lost(self.oldest - cursor));
        }
        let index = self.runs.partition_point(|run| run.end <= cursor);
        let run = self.runs.get(index)?;
        let start = usize::try_from(cursor - self.oldest).ok()?;
        let left = usize::try_from(run.end - cursor).unwrap_or(usize::MAX);
        let end = start + left.min(max_bytes);
        let (front, back) = self.bytes.as_slices();
        let piece = if start < front.len() {
            &front[start..end.min(front.len())]
        } else {
            &back[start - front.len()..end - front.len()]
        };
        Some(Piece::Output(run.kind, Bytes::copy_from_slice(piece)))
    }

    /// Grows by doubling like any collection, but never beyond the limit.
    fn make_room(&mut self, additional: usize) {
        let needed = self.bytes.len() + additional;
        if needed > self.bytes.capacity() {
            let wanted = needed.max(self.bytes.capacity() * 2).min(self.limit);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
    }

    fn drop_oldest_run(&mut self) {
        if let Some(run) = self.runs.pop_front() {
            let dropped = usize::try_from(run.end - self.oldest).unwrap_or(usize::MAX);
            self.bytes.drain(..dropped.min(self.bytes.len()));
            self.note_dropped();
        }
    }

    /// Adapts places and runs to bytes that were taken off the front.
    fn note_dropped(&mut self) {
        self.oldest = self.written - length(self.bytes.len());
        while self.runs.front().is_some_and(|run| run.end <= self.oldest) {
            self.runs.pop_front();
        }
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUT: FrameKind = FrameKind::Output;
    const ERR: FrameKind = FrameKind::ErrorOutput;

    fn output(kind: FrameKind, text: &'static str) -> Option<Piece> {
        Some(Piece::Output(kind, Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn output_is_read_from_any_place_and_cut_at_changes_of_kind() {
        let mut buffer = OutputBuffer::new(1024);
        buffer.write(OUT, b"ab");
        buffer.write(OUT, b"cd");
        buffer.write(ERR, b"e");
        assert_eq!(buffer.read(0, 100), output(OUT, "abcd"));
        assert_eq!(buffer.read(1, 2), output(OUT, "bc"));
        assert_eq!(buffer.read(4, 100), output(ERR, "e"));
        assert_eq!(buffer.read(5, 100), None);
        assert_eq!((buffer.oldest(), buffer.written()), (0, 5));
    }

    #[test]
    fn oldest_output_is_lost_first() {
        let mut buffer = OutputBuffer::new(4);
        buffer.write(ERR, b"ab");
        buffer.write(OUT, b"cdef");
        assert_eq!(buffer.read(0, 100), Some(Piece::Lost(2)));
        assert_eq!(buffer.read(2, 100), output(OUT, "cdef"));
        buffer.write(OUT, b"0123456789");
        assert_eq!(buffer.read(3, 100), Some(Piece::Lost(9)));
        assert_eq!(buffer.read(12, 100), output(OUT, "6789"));
    }

    #[test]
    fn outputs_that_alternate_take_no_more_memory_than_others() {
        let limit = 64 * 1024;
        let mut buffer = OutputBuffer::new(limit);
        for _ in 0..limit {
            buffer.write(OUT, b"o");
            buffer.write(ERR, b"e");
        }
        assert_eq!(buffer.runs.len(), limit / BYTES_PER_RUN);
        let oldest = buffer.oldest();
        assert_eq!(buffer.read(oldest + 1, 100), output(ERR, "e"));
    }

    #[test]
    fn forgotten_output_is_lost() {
        let mut buffer = OutputBuffer::new(16);
        buffer.write(OUT, b"secret");
        buffer.clear();
        assert_eq!(buffer.read(2, 100), Some(Piece::Lost(4)));
        assert_eq!(buffer.read(6, 100), None);
    }

    /// Reads everything from `cursor` on; each lost byte is `None`.
    fn read_all(buffer: &OutputBuffer, cursor: u64, max: usize) -> Vec<Option<(FrameKind, u8)>> {
        let mut all: Vec<Option<(FrameKind, u8)>> = Vec::new();
        while let Some(piece) = buffer.read(cursor + length(all.len()), max) {
            match piece {
                Piece::Lost(count) => all.extend((0..count).map(|_| None)),
                Piece::Output(kind, bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() <= max);
                    all.extend(bytes.iter().map(|byte| Some((kind, *byte))));
                }
            }
        }
        all
    }

    proptest! {
        #[test]
        fn every_reader_gets_every_byte_once_or_hears_that_it_is_lost(
            writes in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..60),
            limit in 1_usize..300,
            max in 1_usize..50,
            seen in 0.0..=1.0_f64,
        ) {
            let mut buffer = OutputBuffer::new(limit);
            let mut history = Vec::new();
            for (is_error, bytes) in &writes {
                let kind = if *is_error { ERR } else { OUT };
                buffer.write(kind, bytes);
                history.extend(bytes.iter().map(|byte| (kind, *byte)));
            }
            prop_assert!(buffer.bytes.capacity() <= limit);
            prop_assert_eq!(buffer.written(), length(history.len()));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let cursor = (history.len() as f64 * seen) as usize;
            let read = read_all(&buffer, length(cursor), max);
            prop_assert_eq!(read.len(), history.len() - cursor);
            let oldest = usize::try_from(buffer.oldest()).expect("small");
            for (place, byte) in (cursor..).zip(read) {
                prop_assert_eq!(byte, (place >= oldest).then(|| history[place]));
            }
        }
    }
}
