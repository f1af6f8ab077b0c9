//! Text from the guest or the VMM, made safe to show: bounded, and without control characters.

use std::collections::VecDeque;

/// Longest line that is kept, in bytes; the rest of a longer one is dropped.
const MAX_LINE_BYTES: usize = 400;

/// The last lines of a byte stream, in bounded memory.
#[derive(Debug)]
pub(crate) struct Tail {
    max_lines: usize,
    lines: VecDeque<String>,
    partial: Vec<u8>,
    watched: Option<&'static str>,
    seen: Option<String>,
}

impl Tail {
    /// Returns an empty tail that keeps `max_lines` lines.
    pub(crate) const fn new(max_lines: usize) -> Self {
        Self {
            max_lines,
            lines: VecDeque::new(),
            partial: Vec::new(),
            watched: None,
            seen: None,
        }
    }

    /// Returns the same tail, which from now on watches for the first line with `words`.
    pub(crate) const fn watching(mut self, words: &'static str) -> Self {
        self.watched = Some(words);
        self
    }

    /// Returns what followed the watched words on the first line with them, kept still or not.
    pub(crate) fn seen(&self) -> Option<&str> {
        self.seen.as_deref()
    }

    /// Takes in the next bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else if self.partial.len() < MAX_LINE_BYTES {
                self.partial.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = printable(&self.partial);
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        if let (Some(words), None) = (self.watched, &self.seen) {
            self.seen = line
                .split_once(words)
                .map(|(_, after)| after.trim().to_owned());
        }
        if self.lines.len() == self.max_lines {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Returns the kept lines, oldest first, with what stands after the last line break.
    pub(crate) fn lines(&self) -> Vec<String> {
        let partial = printable(&self.partial);
        self.lines
            .iter()
            .cloned()
            .chain((!partial.is_empty()).then_some(partial))
            .collect()
    }
}

/// Returns `bytes` as text without control characters, and without spaces at its end.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes)
        .chars()
        .filter(|character| !character.is_control() || *character == '\t')
        .collect();
    text.trim_end().to_owned()
}

/// Returns at most `max_chars` of `text`, without control characters.
pub(crate) fn excerpt(text: &str, max_chars: usize) -> String {
    printable(text.as_bytes()).chars().take(max_chars).collect()
}

/// Returns an error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keeps_the_last_lines_and_the_unfinished_one() {
        let mut tail = Tail::new(2);
        tail.push(b"one\ntwo\r\nthree\nfo");
        tail.push(b"ur");
        assert_eq!(tail.lines(), ["two", "three", "four"]);
    }

    #[test]
    fn watched_words_are_remembered_when_their_line_is_gone() {
        let mut tail = Tail::new(1).watching("panic");
        tail.push(b"all well\n");
        assert_eq!(tail.seen(), None);
        tail.push(b"a panic: of ours\nand more\n");
        assert_eq!(tail.seen(), Some(": of ours"));
        assert_eq!(tail.lines(), ["and more"]);
    }

    #[test]
    fn escape_sequences_lose_their_escape() {
        assert_eq!(printable(b"\x1b[31mred\x07"), "[31mred");
    }

    proptest! {
        #[test]
        fn memory_is_bounded_whatever_is_pushed(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..8),
        ) {
            let mut tail = Tail::new(3);
            for piece in &pieces {
                tail.push(piece);
            }
            let lines = tail.lines();
            prop_assert!(lines.len() <= 4);
            // A byte that is not UTF-8 becomes a replacement character of three bytes.
            prop_assert!(lines.iter().all(|line| line.len() <= 3 * MAX_LINE_BYTES));
        }
    }
}
