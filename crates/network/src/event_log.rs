//! The log of a sandbox's network: JSON lines, written by a thread of their own.
//!
//! ```text
//!   gateway's tasks --record()--> [ bounded queue ] --> writer's thread --> [ held ] --> file
//!                       \-- full: counted, and told as Event::Lost             |
//!                                              first one's cause is known, or late
//! ```
//!
//! A guest can cause events faster than a disk takes them. It must not stop the gateway, and what
//! is missing must be told: so the queue is bounded, and each event has a number, whether it was
//! kept or not.
//!
//! An event whose cause is being asked for is held, and all after it, so that they stay in their
//! order. Holding takes no room from the queue, and ends early when there is much of it: whoever
//! answers slowly, or not at all, loses causes and never events.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::cause::AwaitedCause;
use crate::{Event, Record};

/// Events that wait for the writer, at most; about half a megabyte.
const QUEUE_EVENTS: usize = 2048;

/// Events that are held until a cause is known, at most; as much again.
const HELD_EVENTS: usize = 2048;

/// How long the writer rests after it has written. While it rests nobody has to wake it, which
/// costs more than the writing; the queue does not fill meanwhile below 200,000 events a second.
const REST: Duration = Duration::from_millis(10);

/// Bytes that the writer gathers before it writes, about.
const PIECE_BYTES: usize = 64 * 1024;

/// What the writer is told.
#[derive(Debug)]
enum Entry {
    /// An event.
    Event(Box<Held>),
    /// A cause may be known.
    LookAgain,
}

/// An event that is not written yet, with the cause that it waits for.
#[derive(Debug)]
struct Held {
    record: Record,
    cause: Option<AwaitedCause>,
}

impl Held {
    /// Whether there is nothing to wait for.
    fn is_settled(&self) -> bool {
        self.cause.as_ref().is_none_or(AwaitedCause::is_settled)
    }
}

/// The writer of one log, which ends when all sinks of the log are dropped.
#[derive(Debug)]
pub struct EventLog {
    writer: JoinHandle<()>,
}

impl EventLog {
    /// Starts a log in `file`, which gets whole lines. Returns with it where events go.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(file: impl Write + Send + 'static) -> io::Result<(EventSink, Self)> {
        let (queue, entries) = sync_channel(QUEUE_EVENTS);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            file,
            lost: Arc::clone(&lost),
            held: VecDeque::new(),
            lines: Vec::new(),
            line_events: 0,
        };
        let writer = std::thread::Builder::new()
            .name("network-log".to_owned())
            .spawn(move || writer.run(&entries))?;
        let sink = EventSink {
            queue,
            numbers: Arc::new(AtomicU64::new(0)),
            lost,
        };
        Ok((sink, Self { writer }))
    }

    /// Waits until everything is written.
    ///
    /// Preconditions: all sinks and [`CauseQuestion`](crate::CauseQuestion)s are dropped, or will be
    /// without this thread's help.
    pub fn finish(self) {
        // What a panic has said already is not said again.
        let _panicked = self.writer.join();
    }
}

/// Where the parts of a gateway tell what happens. Never waits.
#[derive(Clone, Debug)]
pub struct EventSink {
    queue: SyncSender<Entry>,
    numbers: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
}

impl EventSink {
    /// Records an event that happens now.
    pub fn record(&self, event: Event) {
        self.enter(event, None);
    }

    /// Records an event that happens now, with a cause that may not be known yet.
    pub(crate) fn record_caused(&self, event: Event, cause: AwaitedCause) {
        self.enter(event, Some(cause));
    }

    /// Has causes looked for that are known by now.
    pub(crate) fn look_again(&self) {
        // A queue that is full has enough in it to be looked at for.
        let _full = self.queue.try_send(Entry::LookAgain);
    }

    fn enter(&self, event: Event, cause: Option<AwaitedCause>) {
        let record = Record {
            sequence: self.numbers.fetch_add(1, Ordering::Relaxed),
            time_unix_ms: now_unix_ms(),
            event,
            cause: None,
        };
        match self
            .queue
            .try_send(Entry::Event(Box::new(Held { record, cause })))
        {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns a sink without a log, and what was recorded in it.
    #[cfg(test)]
    pub(crate) fn for_test() -> (Self, Recorded) {
        let (queue, entries) = sync_channel(QUEUE_EVENTS);
        let sink = Self {
            queue,
            numbers: Arc::default(),
            lost: Arc::default(),
        };
        (sink, Recorded(entries))
    }
}

/// What a test's events were recorded in.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Recorded(Receiver<Entry>);

#[cfg(test)]
impl Recorded {
    /// Returns the next event, if there is one.
    pub(crate) fn next(&self) -> Option<Record> {
        self.0.try_iter().find_map(|entry| match entry {
            Entry::Event(held) => Some(held.record),
            Entry::LookAgain => None,
        })
    }
}

fn now_unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// The thread that writes.
struct Writer<W> {
    file: W,
    lost: Arc<AtomicU64>,
    held: VecDeque<Box<Held>>,
    /// What is to be written next.
    lines: Vec<u8>,
    /// Events in these lines, those told as lost included.
    line_events: u64,
}

impl<W: Write> Writer<W> {
    /// Writes until all sinks are dropped.
    fn run(mut self, entries: &Receiver<Entry>) {
        while let Some(first) = self.next(entries) {
            for entry in std::iter::once(first).chain(entries.try_iter()) {
                self.take(entry);
            }
            self.write();
            std::thread::sleep(REST);
        }
        // Whoever could say more is gone.
        while !self.held.is_empty() {
            self.add_first();
        }
        self.write();
    }

    /// Waits for the next entry, or until the first event held need not be held any more.
    fn next(&self, entries: &Receiver<Entry>) -> Option<Entry> {
        let Some(cause) = self.held.front().and_then(|first| first.cause.as_ref()) else {
            return entries.recv().ok();
        };
        let patience = cause.deadline().saturating_duration_since(Instant::now());
        match entries.recv_timeout(patience) {
            Ok(entry) => Some(entry),
            Err(RecvTimeoutError::Timeout) => Some(Entry::LookAgain),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn take(&mut self, entry: Entry) {
        if let Entry::Event(held) = entry {
            self.held.push_back(held);
        }
        while let Some(first) = self.held.front()
            && (first.is_settled() || self.held.len() > HELD_EVENTS)
        {
            self.add_first();
        }
    }

    /// Adds the first event held to the lines.
    fn add_first(&mut self) {
        let Some(first) = self.held.pop_front() else {
            return;
        };
        let Held { mut record, cause } = *first;
        record.cause = cause.and_then(|cause| cause.known());
        let missing = self.lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let lost = Record {
                event: Event::Lost { events: missing },
                cause: None,
                ..record
            };
            line(&mut self.lines, &lost);
        }
        line(&mut self.lines, &record);
        self.line_events += missing + 1;
        if self.lines.len() >= PIECE_BYTES {
            self.write();
        }
    }

    fn write(&mut self) {
        if let Err(error) = self.file.write_all(&self.lines) {
            // A full disk must not stop the network; what could not be written counts as lost.
            tracing::debug!(%error, "network events not written");
            self.lost.fetch_add(self.line_events, Ordering::Relaxed);
        }
        self.lines.clear();
        self.line_events = 0;
    }
}

fn line(lines: &mut Vec<u8>, record: &Record) {
    // Writing to memory does not fail, and every event is made of plain values.
    if serde_json::to_writer(&mut *lines, record).is_ok() {
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::cause::Causes;
    use crate::{Cause, CauseQuestion, Protocol};

    fn query(number: usize) -> Event {
        Event::Dns {
            name: format!("{number}.example"),
            record_type: "A".to_owned(),
            verdict: crate::Verdict::allowed("open"),
            outcome: "NOERROR".to_owned(),
            addresses: Vec::new(),
            withheld: Vec::new(),
        }
    }

    /// A file in memory that two sides hold.
    #[derive(Clone, Default)]
    struct Memory(Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn records(&self) -> Vec<Record> {
            let bytes = self.0.lock().expect("no panic");
            let lines = bytes.split(|&byte| byte == b'\n');
            lines
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).expect("a record"))
                .collect()
        }
    }

    /// Returns how many events are in a log, or told to be lost in it.
    fn accounted(file: &Memory) -> usize {
        let records = file.records().into_iter();
        let counts = records.map(|record| match record.event {
            Event::Lost { events } => usize::try_from(events).expect("small"),
            _ => 1,
        });
        counts.sum()
    }

    #[test]
    fn events_are_lines_in_their_order() {
        let file = Memory::default();
        let (sink, log) = EventLog::start(file.clone()).expect("log");
        for number in 0..3 {
            sink.record(query(number));
        }
        drop(sink);
        log.finish();
        let records = file.records();
        let numbers: Vec<u64> = records.iter().map(|record| record.sequence).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(records[2].event, query(2));
    }

    #[test]
    fn flood_is_kept_or_told_as_lost() {
        let file = Memory::default();
        let (sink, log) = EventLog::start(file.clone()).expect("log");
        for number in 0..100_000 {
            sink.record(query(number));
        }
        // What came last is announced with the next event, once there is room for one.
        while sink.lost.load(Ordering::Relaxed) > 0 {
            sink.record(query(0));
            std::thread::yield_now();
        }
        let recorded = sink.numbers.load(Ordering::Relaxed);
        drop(sink);
        log.finish();
        assert_eq!(u64::try_from(accounted(&file)), Ok(recorded));
    }

    /// Returns a log in memory, and the questions for the causes of its events.
    fn log_with_causes() -> (
        Memory,
        EventLog,
        EventSink,
        Causes,
        mpsc::Receiver<CauseQuestion>,
    ) {
        let file = Memory::default();
        let (sink, log) = EventLog::start(file.clone()).expect("log");
        let (questions, asked) = mpsc::channel(QUEUE_EVENTS * 4);
        let causes = Causes::new(Some(questions), sink.clone());
        (file, log, sink, causes, asked)
    }

    fn ask(causes: &Causes) -> AwaitedCause {
        let end = ([172, 16, 0, 2], 40_000).into();
        causes.ask(Protocol::Tcp, end, ([203, 0, 113, 7], 443).into())
    }

    fn curl() -> Cause {
        Cause {
            exec: 3,
            pid: 211,
            program: "curl".to_owned(),
            job: None,
            has_ended: false,
        }
    }

    #[test]
    fn event_has_the_cause_that_is_known_later_and_keeps_its_place() {
        let (file, log, sink, causes, mut asked) = log_with_causes();
        sink.record_caused(query(0), ask(&causes));
        sink.record(query(1));
        asked.try_recv().expect("asked").answer(curl());
        drop((sink, causes));
        log.finish();
        let records = file.records();
        let causes: Vec<Option<Cause>> = records.iter().map(|one| one.cause.clone()).collect();
        assert_eq!(causes, [Some(curl()), None]);
        assert_eq!(
            [&records[0].event, &records[1].event],
            [&query(0), &query(1)]
        );
    }

    #[test]
    fn events_wait_no_longer_for_a_question_that_was_dropped() {
        let (file, log, sink, causes, mut asked) = log_with_causes();
        sink.record_caused(query(0), ask(&causes));
        drop(asked.try_recv().expect("asked"));
        while file.records().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(file.records()[0].cause, None);
        drop((sink, causes));
        log.finish();
    }

    #[test]
    fn flood_whose_causes_nobody_tells_is_written_all_the_same() {
        let (file, log, sink, causes, asked) = log_with_causes();
        let lost = Arc::clone(&sink.lost);
        let mut recorded = 0;
        while file.records().is_empty() {
            for _ in 0..HELD_EVENTS {
                sink.record_caused(query(recorded), ask(&causes));
                recorded += 1;
            }
        }
        // Questions keep the log open, too.
        drop((sink, causes, asked));
        log.finish();
        // What was lost last has no event after it that would tell so.
        let untold = usize::try_from(lost.load(Ordering::Relaxed)).expect("small");
        assert_eq!(accounted(&file) + untold, recorded);
    }
}
