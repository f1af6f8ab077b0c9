//! The log of a sandbox's network: JSON lines in two files of bounded size.
//!
//! ```text
//!   gateway's tasks --record()--> [ bounded queue ] --> writer's thread --> network.jsonl
//!                       \-- full: counted, and told as Event::Lost      \-> network.jsonl.1
//! ```
//!
//! A guest can cause events faster than a disk takes them. It must neither stop the gateway nor
//! fill the disk, and what is missing must be told: so the queue and the files are bounded, and
//! each event has a number, whether it was kept or not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Event, Record};

/// Events that wait for the writer, at most; about half a megabyte.
const QUEUE_EVENTS: usize = 2048;

/// Size at which the log is put aside, in bytes; it takes at most twice this from the disk.
/// About 30,000 events.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// The writer of one log, which ends when all sinks of the log are dropped.
#[derive(Debug)]
pub struct EventLog {
    writer: JoinHandle<()>,
}

impl EventLog {
    /// Starts the log at `path`, going on after what is there. Returns with it where events go.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or no thread started.
    pub fn start(path: PathBuf) -> io::Result<(EventSink, Self)> {
        let file = BoundedFile::open(path)?;
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

fn write(records: &Receiver<Record>, mut file: BoundedFile, lost: &AtomicU64) {
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
        if let Err(error) = file.write(&lines) {
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

/// A file that is put aside when it is full, with the one before it.
#[derive(Debug)]
struct BoundedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl BoundedFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes >= MAX_FILE_BYTES {
            fs::rename(&self.path, put_aside(&self.path))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(lines)?;
        self.bytes += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

/// Returns where a full log goes.
fn put_aside(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
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

    fn records(path: &Path) -> Vec<Record> {
        let text = fs::read_to_string(path).expect("kept");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a record"))
            .collect()
    }

    #[test]
    fn events_are_lines_in_their_order() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("network.jsonl");
        let (sink, log) = EventLog::start(path.clone()).expect("log");
        for number in 0..3 {
            sink.record(query(number));
        }
        drop(sink);
        log.finish();
        let records = records(&path);
        assert_eq!(
            records
                .iter()
                .map(|record| record.sequence)
                .collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert_eq!(records[2].event, query(2));
    }

    #[test]
    fn flood_is_kept_or_told_as_lost() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("network.jsonl");
        let (sink, log) = EventLog::start(path.clone()).expect("log");
        let flood = 100_000;
        for number in 0..flood {
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

        let counted: u64 = [put_aside(&path), path]
            .iter()
            .filter(|path| path.exists())
            .flat_map(|path| records(path))
            .map(|record| match record.event {
                Event::Lost { events } => events,
                _ => 1,
            })
            .sum();
        assert_eq!(counted, recorded);
    }

    #[test]
    fn full_log_is_put_aside_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("network.jsonl");
        let mut file = BoundedFile::open(path.clone()).expect("file");
        let mebibyte = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            file.write(&mebibyte).expect("written");
        }
        let size = |path: &Path| fs::metadata(path).expect("kept").len();
        assert_eq!(size(&put_aside(&path)), MAX_FILE_BYTES);
        assert_eq!(size(&path), 4 << 20);
    }
}
