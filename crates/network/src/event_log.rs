//! The log of a sandbox's network: JSON lines, written by a thread of their own.
//!
//! ```text
//!   gateway's tasks --record()--> [ bounded queue ] --> writer's thread --> file
//!                       \-- full: counted, and told as Event::Lost
//! ```
//!
//! A guest can cause events faster than a disk takes them. It must not stop the gateway, and what
//! is missing must be told: so the queue is bounded, and each event has a number, whether it was
//! kept or not.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Event, Record};

/// Events that wait for the writer, at most; about half a megabyte.
const QUEUE_EVENTS: usize = 2048;

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
        let (queue, records) = sync_channel(QUEUE_EVENTS);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let writer = std::thread::Builder::new()
            .name("network-log".to_owned())
            .spawn(move || write(&records, file, &counted))?;
        let sink = EventSink {
            queue,
            numbers: Arc::new(AtomicU64::new(0)),
            lost,
        };
        Ok((sink, Self { writer }))
    }

    /// Waits until everything is written.
    ///
    /// Preconditions: all sinks are dropped, or will be without this thread's help.
    pub fn finish(self) {
        // What a panic has said already is not said again.
        let _panicked = self.writer.join();
    }
}

/// Where the parts of a gateway tell what happens. Never waits.
#[derive(Clone, Debug)]
pub struct EventSink {
    queue: SyncSender<Record>,
    numbers: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
}

impl EventSink {
    /// Records an event that happens now.
    pub fn record(&self, event: Event) {
        let record = Record {
            sequence: self.numbers.fetch_add(1, Ordering::Relaxed),
            time_unix_ms: now_unix_ms(),
            event,
        };
        match self.queue.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns a sink without a log, and what was recorded in it.
    #[cfg(test)]
    pub(crate) fn for_test() -> (Self, Receiver<Record>) {
        let (queue, records) = sync_channel(QUEUE_EVENTS);
        let sink = Self {
            queue,
            numbers: Arc::default(),
            lost: Arc::default(),
        };
        (sink, records)
    }
}

fn now_unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

fn write(records: &Receiver<Record>, mut file: impl Write, lost: &AtomicU64) {
    while let Ok(record) = records.recv() {
        let mut lines = Vec::with_capacity(512);
        let missing = lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            line(
                &mut lines,
                &Record {
                    sequence: record.sequence,
                    time_unix_ms: record.time_unix_ms,
                    event: Event::Lost { events: missing },
                },
            );
        }
        line(&mut lines, &record);
        if let Err(error) = file.write_all(&lines) {
            // A full disk must not stop the network; what could not be written counts as lost.
            tracing::debug!(%error, "network event not written");
            lost.fetch_add(missing + 1, Ordering::Relaxed);
        }
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
    use super::*;

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
        let accounted = file.records().into_iter().map(|record| match record.event {
            Event::Lost { events } => events,
            _ => 1,
        });
        assert_eq!(accounted.sum::<u64>(), recorded);
    }
}
