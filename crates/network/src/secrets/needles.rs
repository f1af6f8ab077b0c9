//! Texts that are looked for in what passes.

use std::cmp::Reverse;

use memchr::memmem::Finder;

/// Several texts, and what belongs to each. None is empty.
#[derive(Clone, Debug)]
pub(super) struct Needles<T>(Vec<(Finder<'static>, T)>);

/// A text that was found.
pub(super) struct Found<'a, T> {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) belonging: &'a T,
}

impl<T> Needles<T> {
    pub(super) fn new(texts: impl Iterator<Item = (impl AsRef<str>, T)>) -> Self {
        Self(
            texts
                .map(|(text, belonging)| (Finder::new(text.as_ref()).into_owned(), belonging))
                .collect(),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first that is in the bytes; of two at the same place, the longer.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<Found<'_, T>> {
        let found = self.0.iter().filter_map(|(finder, belonging)| {
            let start = finder.find(bytes)?;
            let end = start + finder.needle().len();
            Some(Found {
                start,
                end,
                belonging,
            })
        });
        found.min_by_key(|found| (found.start, Reverse(found.end)))
    }

    /// Returns how many of the last bytes may be the beginning of a text.
    pub(super) fn begun(&self, bytes: &[u8]) -> usize {
        let begun = self.0.iter().map(|(finder, _)| {
            let needle = finder.needle();
            let longest = bytes.len().min(needle.len() - 1);
            (1..=longest)
                .rev()
                .find(|length| bytes.ends_with(&needle[..*length]))
                .unwrap_or(0)
        });
        begun.max().unwrap_or(0)
    }
}
