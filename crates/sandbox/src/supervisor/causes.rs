//! What causes events of the network: the gateway asks, the agent knows.
//!
//! ```text
//!   gateway --[ at most MAX_QUESTIONS ]--> this task --one at a time--> agent
//! ```
//!
//! The agent gets one question at a time however many flows there are, and its answer is the guest's
//! word: bounded, made printable, and used for nothing but the log.

use std::time::Duration;

use smolvm_network::{Cause, CauseQuestion, Protocol};
use smolvm_protocol::message::{MAX_PROGRAM_CHARS, Owner, Socket, SocketProtocol};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::multiplexer::{AgentSession, OwnerSearch, SessionError};
use crate::text;

/// Questions that may wait for the agent: what a browser opens at once. Those beyond are not asked.
pub(super) const MAX_QUESTIONS: usize = 64;

/// How long the agent has for an answer. The first one takes longest, as its kernel has to load
/// modules for it. Nobody waits that long; an answer that comes later still would be taken for that
/// to the next question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest name of a job, in characters.
const MAX_JOB_CHARS: usize = 64;

/// Answers questions until there are no more, or the agent cannot.
pub(super) async fn answer(mut questions: mpsc::Receiver<CauseQuestion>, agent: AgentSession) {
    let mut search = None;
    while let Some(question) = questions.recv().await {
        if question.is_late() {
            continue;
        }
        match timeout(PATIENCE, ask(&mut search, &agent, &question)).await {
            Ok(Ok(Some(owner))) => question.answer(cause(&owner)),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                // An older agent does not know the question, and one that breaks the protocol once
                // is not asked again.
                tracing::debug!(error = %text::chain(&error), "causes of events not known");
                return;
            }
            Err(_) => search = None,
        }
    }
}

async fn ask(
    search: &mut Option<OwnerSearch>,
    agent: &AgentSession,
    question: &CauseQuestion,
) -> Result<Option<Owner>, SessionError> {
    let Some(protocol) = socket_protocol(question.protocol) else {
        return Ok(None);
    };
    let search = match search {
        Some(search) => search,
        None => search.insert(agent.find_owners().await?),
    };
    let socket = Socket {
        protocol,
        source: question.source,
        destination: question.destination,
    };
    search.owner_of(socket).await
}

const fn socket_protocol(protocol: Protocol) -> Option<SocketProtocol> {
    match protocol {
        Protocol::Tcp => Some(SocketProtocol::Tcp),
        Protocol::Udp => Some(SocketProtocol::Udp),
        Protocol::Icmp => None,
    }
}

fn cause(owner: &Owner) -> Cause {
    let bounded = |job: &String| text::excerpt(job, MAX_JOB_CHARS);
    Cause {
        exec: owner.number,
        pid: owner.pid,
        program: text::excerpt(&owner.program, MAX_PROGRAM_CHARS),
        job: owner.job.as_ref().map(bounded),
        has_ended: owner.has_ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hostile_guest_says_is_bounded_and_printable() {
        let owner = Owner {
            number: u64::MAX,
            pid: u32::MAX,
            program: "\u{1b}[2J".to_owned() + &"x".repeat(100_000),
            job: Some("a\nb".repeat(100_000)),
            has_ended: true,
        };
        let Cause { program, job, .. } = cause(&owner);
        let job = job.expect("a job");
        assert!(program.chars().count() <= MAX_PROGRAM_CHARS);
        assert!(job.chars().count() <= MAX_JOB_CHARS);
        assert!(!(program + &job).contains(char::is_control));
    }
}
