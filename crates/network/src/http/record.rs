//! What the log tells of a request.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::StatusCode;

use crate::secrets::Findings;
use crate::{Event, EventSink, Verdict};

/// Characters of a path or method that the log repeats, at most.
const MAX_TEXT_CHARACTERS: usize = 1024;

/// A request as it goes on. It is told when the last who holds this is done: the answer's head has
/// been made, or will not be, and the request's body has been sent.
#[derive(Debug)]
pub(super) struct RequestRecord {
    events: EventSink,
    connection: u64,
    method: String,
    host: String,
    path: String,
    /// What was found in the request so far.
    pub(super) findings: Findings,
    /// Guards the outcome; held for single operations.
    outcome: Mutex<Outcome>,
}

#[derive(Debug)]
struct Outcome {
    status: Option<StatusCode>,
    verdict: Verdict,
}

impl RequestRecord {
    pub(super) fn new(events: EventSink, connection: u64, method: &str, path: &str) -> Self {
        Self {
            events,
            connection,
            method: printable(method),
            host: String::new(),
            path: printable(path),
            findings: Findings::default(),
            outcome: Mutex::new(Outcome {
                status: None,
                verdict: Verdict::denied("built-in: malformed request"),
            }),
        }
    }

    pub(super) fn set_host(&mut self, host: String) {
        self.host = host;
    }

    pub(super) fn set_verdict(&self, verdict: Verdict) {
        self.outcome().verdict = verdict;
    }

    pub(super) fn set_status(&self, status: StatusCode) {
        self.outcome().status = Some(status);
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let (status, mut verdict) = {
            let outcome = self.outcome();
            (outcome.status, outcome.verdict.clone())
        };
        if let Some(refused) = self.findings.refused() {
            verdict = Verdict::denied(format!("built-in: {refused}"));
        }
        self.events.record(Event::Request {
            connection: self.connection,
            method: std::mem::take(&mut self.method),
            host: std::mem::take(&mut self.host),
            path: std::mem::take(&mut self.path),
            status: status.map(|status| status.as_u16()),
            secrets: self.findings.put(),
            verdict,
        });
    }
}

/// Returns a guest's text, bounded and on one line.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT_CHARACTERS)
        .map(|character| {
            if character.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                character
            }
        })
        .collect()
}
