//! What caused an event: a command in the guest, as the guest's agent tells.
//!
//! ```text
//!   flow or query begins --ask()--> [ bounded queue ] --> whoever knows the guest
//!          |                           \-- full: nobody knows     |
//!          |                                                 answer(), or dropped
//!          +--its event, with the cause that is awaited--> log <--+
//! ```
//!
//! The answer is the guest's word. It is for people who read the log, and nothing is decided by it.
//! Nothing that goes out waits for it: a flow is judged and the host connects meanwhile. Only what
//! the gateway itself answers, a refusal or a DNS answer, waits a moment ([`HOLD`]): with it, a
//! guest's program is done with its socket, and nobody could tell any more whose it was.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use crate::{EventSink, Protocol};

/// How long an event waits for its cause in the log. A guest with one processor that is busy, under
/// software emulation, takes tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the gateway keeps an answer of its own back until its cause is known, at most.
const HOLD: Duration = Duration::from_millis(100);

/// A command in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Its number among the commands that were started in the guest since it booted, from 1.
    pub exec: u64,
    /// Its process ID in the guest.
    pub pid: u32,
    /// Name of its program, bounded and printable, without arguments.
    pub program: String,
    /// The job that it is the command of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Whether it had ended already, and this comes from something that it left running.
    pub has_ended: bool,
}

/// The question which command of the guest has opened a socket. Dropping it says that nobody knows.
#[derive(Debug)]
pub struct CauseQuestion {
    /// What the socket carries.
    pub protocol: Protocol,
    /// The guest's end.
    pub source: SocketAddr,
    /// The other one.
    pub destination: SocketAddr,
    asked: Instant,
    answer: watch::Sender<Option<Cause>>,
    /// Dropped last: the log then sees the answer, or that there will be none.
    _reminder: Reminder,
}

/// Has the log look for answers when it is dropped.
#[derive(Debug)]
struct Reminder(EventSink);

impl Drop for Reminder {
    fn drop(&mut self) {
        self.0.look_again();
    }
}

impl CauseQuestion {
    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.asked.elapsed() > PATIENCE
    }

    /// Answers it.
    pub fn answer(self, cause: Cause) {
        self.answer.send_replace(Some(cause));
    }
}

/// Where a gateway asks what causes its events.
#[derive(Debug)]
pub(crate) struct Causes {
    questions: Option<mpsc::Sender<CauseQuestion>>,
    log: EventSink,
}

impl Causes {
    /// Returns one whose questions go to `questions`; without, nobody knows a cause.
    pub(crate) fn new(questions: Option<mpsc::Sender<CauseQuestion>>, log: EventSink) -> Self {
        Self { questions, log }
    }

    /// Asks which command has opened a socket. Never waits: where too many questions are under way,
    /// nobody knows.
    pub(crate) fn ask(
        &self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> AwaitedCause {
        let Some(questions) = &self.questions else {
            return AwaitedCause::unknown();
        };
        if protocol == Protocol::Icmp {
            // A ping has no port by which its socket could be found.
            return AwaitedCause::unknown();
        }
        let (sender, answer) = watch::channel(None);
        let asked = Instant::now();
        let question = CauseQuestion {
            protocol,
            source,
            destination,
            asked,
            answer: sender,
            _reminder: Reminder(self.log.clone()),
        };
        // Dropped, it is answered.
        let _full = questions.try_send(question);
        AwaitedCause { answer, asked }
    }
}

/// A cause that was asked for.
#[derive(Clone, Debug)]
pub struct AwaitedCause {
    answer: watch::Receiver<Option<Cause>>,
    asked: Instant,
}

impl AwaitedCause {
    /// Returns one that nobody will tell.
    #[must_use]
    pub fn unknown() -> Self {
        let (_, answer) = watch::channel(None);
        let asked = Instant::now();
        Self { answer, asked }
    }

    /// Returns when the log gives it up.
    pub(crate) fn deadline(&self) -> Instant {
        self.asked + PATIENCE
    }

    /// Whether there is nothing to wait for any more.
    pub(crate) fn is_settled(&self) -> bool {
        self.answer.borrow().is_some()
            || self.answer.has_changed().is_err()
            || self.deadline() <= Instant::now()
    }

    /// Returns it, as far as it is known.
    pub(crate) fn known(&self) -> Option<Cause> {
        self.answer.borrow().clone()
    }

    /// Waits until it is settled, but not long.
    pub(crate) async fn held(&self) {
        let mut answer = self.answer.clone();
        // Either way the wait is over.
        let _result = timeout_at(self.asked + HOLD, answer.wait_for(Option::is_some)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause() -> Cause {
        Cause {
            exec: 3,
            pid: 211,
            program: "curl".to_owned(),
            job: None,
            has_ended: false,
        }
    }

    fn ask(causes: &Causes, protocol: Protocol) -> AwaitedCause {
        let end = ([172, 16, 0, 2], 40_000).into();
        causes.ask(protocol, end, ([203, 0, 113, 7], 443).into())
    }

    fn causes(room: usize) -> (Causes, mpsc::Receiver<CauseQuestion>) {
        let (questions, asked) = mpsc::channel(room);
        let (log, _records) = EventSink::for_test();
        (Causes::new(Some(questions), log), asked)
    }

    #[tokio::test]
    async fn answer_settles_the_cause() {
        let (causes, mut asked) = causes(1);
        let awaited = ask(&causes, Protocol::Tcp);
        assert!(!awaited.is_settled());
        asked.recv().await.expect("asked").answer(cause());
        assert!(awaited.is_settled());
        assert_eq!(awaited.known(), Some(cause()));
    }

    #[tokio::test]
    async fn question_beyond_those_under_way_is_answered_at_once() {
        let (causes, _asked) = causes(1);
        let first = ask(&causes, Protocol::Udp);
        let second = ask(&causes, Protocol::Udp);
        assert!(!first.is_settled() && second.is_settled());
        assert_eq!(second.known(), None);
    }

    #[tokio::test]
    async fn ping_is_not_asked_about() {
        let (causes, mut asked) = causes(1);
        assert!(ask(&causes, Protocol::Icmp).is_settled());
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn guest_that_does_not_answer_holds_nothing_for_long() {
        let (causes, mut asked) = causes(1);
        let began = Instant::now();
        let awaited = ask(&causes, Protocol::Tcp);
        let question = asked.recv().await.expect("asked");
        awaited.held().await;
        assert!(began.elapsed() <= HOLD + Duration::from_millis(1));
        tokio::time::advance(PATIENCE).await;
        assert!(awaited.is_settled() && question.is_late());
    }
}
