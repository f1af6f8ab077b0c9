//! Replaces texts in a stream that comes in pieces.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};

use super::action::{Action, Form, SecretRefused};
use super::findings::Findings;
use super::needles::Needles;

/// Replaces texts, also where one is cut between two pieces. Holds back only what may be the
/// beginning of one, so that a line of server-sent events is not late.
#[derive(Debug)]
pub(crate) struct Rewriter {
    needles: Arc<Needles<Action>>,
    form: Form,
    findings: Findings,
    /// The end of the last piece that may be the beginning of a text; shorter than the longest.
    held: Bytes,
}

impl Rewriter {
    pub(super) fn new(needles: Arc<Needles<Action>>, form: Form, findings: Findings) -> Self {
        Self {
            needles,
            form,
            findings,
            held: Bytes::new(),
        }
    }

    /// Takes a piece and returns what can be passed on. It is the piece itself, not a copy, when
    /// nothing is found in it.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<Bytes, SecretRefused> {
        let mut rest = if self.held.is_empty() {
            piece
        } else {
            Bytes::from([&self.held[..], &piece[..]].concat())
        };
        let mut output = BytesMut::new();
        while let Some(found) = self.needles.find(&rest) {
            output.extend_from_slice(&rest[..found.start]);
            output.extend_from_slice(&self.replacement(found.belonging)?);
            rest.advance(found.end);
        }
        let held = rest.split_off(rest.len() - self.needles.begun(&rest));
        // A copy, so that these few bytes do not keep the whole piece.
        self.held = Bytes::copy_from_slice(&held);
        if output.is_empty() {
            return Ok(rest);
        }
        output.extend_from_slice(&rest);
        Ok(output.freeze())
    }

    /// Returns what was held back, as nothing follows it.
    pub(crate) fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
    }

    /// Tells whether nothing is held back.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    fn replacement(&self, action: &Action) -> Result<Bytes, SecretRefused> {
        let (new, name) = action
            .apply(self.form)
            .inspect_err(|refused| self.findings.set_refused(refused))?;
        if let Some(name) = name {
            self.findings.add_put(name);
        }
        Ok(new)
    }
}
