//! Asking the monitor: one JSON document a line, replies in the order of the requests.
//!
//! A task reads until the monitor closes the connection: replies go to whoever asked, and the
//! machine's end is kept. What comes is hostile: lines and their number are bounded.

use std::io;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use smolvm_protocol::vmm::{MAX_LINE_BYTES, MachineEnd, MachineStats, Reply, Request};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::text;

/// How long the monitor may take for what it is asked; loading a kernel is the longest.
const PATIENCE: Duration = Duration::from_secs(20);

/// Replies that may wait to be read; there is one for each request, and one request at a time.
const MAX_REPLIES: usize = 4;

/// Characters of a message of the monitor's that are shown.
pub(super) const MAX_MESSAGE_CHARS: usize = 1000;

/// A connection to the monitor.
#[derive(Debug)]
pub(super) struct Control {
    writer: WriteHalf<UnixStream>,
    replies: mpsc::Receiver<Reply>,
    /// Requests whose replies nobody waits for.
    unawaited: usize,
    reader: Option<JoinHandle<Option<MachineEnd>>>,
    end: Option<MachineEnd>,
}

impl Control {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (sender, replies) = mpsc::channel(MAX_REPLIES);
        Self {
            writer,
            replies,
            unawaited: 0,
            reader: Some(tokio::spawn(read(reader, sender))),
            end: None,
        }
    }

    /// Asks for something and waits until it has been done.
    pub(super) async fn ask(&mut self, request: &Request) -> io::Result<()> {
        self.answer(request).await.map(drop)
    }

    /// Asks what the machine has done so far.
    pub(super) async fn stats(&mut self) -> io::Result<MachineStats> {
        match self.answer(&Request::Stats).await? {
            Reply::Stats(stats) => Ok(stats),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks for something and waits for the answer.
    async fn answer(&mut self, request: &Request) -> io::Result<Reply> {
        self.writer.write_all(&line(request)?).await?;
        // Counted until the answer is here: this wait may be given up.
        self.unawaited += 1;
        loop {
            let reply = tokio::time::timeout(PATIENCE, self.replies.recv()).await;
            let reply = reply.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
            let reply = reply.ok_or(io::ErrorKind::BrokenPipe)?;
            self.unawaited -= 1;
            match reply {
                // The answer to an earlier request.
                _ if self.unawaited > 0 => {}
                Reply::Refused { message } => {
                    let message = text::excerpt(&message, MAX_MESSAGE_CHARS);
                    return Err(io::Error::other(message));
                }
                reply => return Ok(reply),
            }
        }
    }

    /// Lets the machine go on without waiting until it does. A socket that is full of requests is
    /// one that the monitor does not read, which the machine's end will tell.
    pub(super) fn resume_soon(&mut self) {
        let Ok(line) = line(&Request::Resume) else {
            return;
        };
        if let Some(Ok(())) = self.writer.write_all(&line).now_or_never() {
            self.unawaited += 1;
        }
    }

    /// Returns why the machine has ended. Waits until the monitor has closed the connection.
    pub(super) async fn end(&mut self) -> Option<MachineEnd> {
        // Nobody asks any more; replies must not keep the reader.
        self.replies.close();
        if let Some(reader) = &mut self.reader {
            self.end = reader.await.unwrap_or_default();
            self.reader = None;
        }
        self.end.clone()
    }
}

fn line(request: &Request) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    Ok(line)
}

async fn read(reader: ReadHalf<UnixStream>, replies: mpsc::Sender<Reply>) -> Option<MachineEnd> {
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    let mut end = None;
    while let Some(line) = lines.next().await {
        // A line longer than any of the monitor's is not the monitor's, nor is one of no meaning.
        let reply = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        match reply {
            Some(Reply::Ended(reason)) => end = Some(reason),
            // Without anybody who asks, and when more replies come than requests went, it waits
            // or is lost: either way nothing grows.
            Some(reply) => drop(replies.send(reply).await),
            None => break,
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smolvm_protocol::vmm::Flow;
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;

    /// Returns a control and the monitor's side, which answers each request by the next of
    /// `replies`, and then closes the connection.
    fn control(replies: Vec<Reply>) -> (Control, JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let monitor = tokio::spawn(async move {
            let mut stream = BufReader::new(theirs);
            let mut requests = Vec::new();
            for reply in replies {
                let mut request = String::new();
                stream.read_line(&mut request).await.expect("a request");
                requests.push(request.trim().to_owned());
                let reply = serde_json::to_string(&reply).expect("JSON") + "\n";
                stream.write_all(reply.as_bytes()).await.expect("heard");
            }
            requests
        });
        (Control::new(ours), monitor)
    }

    #[tokio::test]
    async fn stats_are_those_of_the_answer_to_their_own_request() {
        let stats = MachineStats {
            port_exits: 7,
            ..MachineStats::default()
        };
        let refused = Reply::Refused {
            message: "no".to_owned(),
        };
        let (mut control, monitor) = control(vec![refused, Reply::Stats(stats)]);
        control.resume_soon();
        assert_eq!(control.stats().await.expect("answered"), stats);
        assert_eq!(monitor.await.expect("done"), ["\"resume\"", "\"stats\""]);
    }

    #[tokio::test]
    async fn monitor_that_answers_something_else_has_no_stats() {
        let (mut control, _monitor) = control(vec![Reply::Done]);
        let error = control.stats().await.expect_err("no stats");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = control.stats().await.expect_err("gone");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn counts_have_these_names_for_whoever_reads_them() {
        let flow = Flow {
            count: 2,
            bytes: 512,
        };
        let mut stats = MachineStats::default();
        (stats.disks.to_guest, stats.network.from_guest) = (flow, flow);
        let document = serde_json::to_value(stats).expect("JSON");
        assert_eq!(document["disks"]["to_guest"]["bytes"], 512);
        assert_eq!(document["network"]["from_guest"]["count"], 2);
    }

    /// Returns what the supervisor makes of a monitor that says this and ends.
    async fn end_after(said: Vec<u8>) -> Option<MachineEnd> {
        let (ours, mut monitor) = UnixStream::pair().unwrap();
        let mut control = Control::new(ours);
        let say = tokio::spawn(async move {
            // A reader that has heard enough is gone.
            let _unheard = monitor.write_all(&said).await;
        });
        let end = control.end().await;
        say.await.unwrap();
        end
    }

    fn said(reply: &Reply) -> Vec<u8> {
        let mut line = serde_json::to_vec(reply).unwrap();
        line.push(b'\n');
        line
    }

    #[tokio::test]
    async fn end_is_kept_however_many_replies_come_that_nobody_asked_for() {
        let flood = said(&Reply::Done).repeat(100_000);
        let end = said(&Reply::Ended(MachineEnd::PoweredOff));
        let end = end_after([flood, end].concat()).await;
        assert_eq!(end, Some(MachineEnd::PoweredOff));
    }

    #[tokio::test]
    async fn line_that_is_too_long_or_means_nothing_is_the_last_one() {
        let end = said(&Reply::Ended(MachineEnd::Reset));
        let long = vec![b' '; MAX_LINE_BYTES + 1];
        for nonsense in [long, b"\n".to_vec(), b"{}\n".to_vec(), b"\xff\n".to_vec()] {
            assert_eq!(end_after([nonsense, end.clone()].concat()).await, None);
        }
        // Deeper than any message of ours.
        let deep = [vec![b'['; 100_000], b"\n".to_vec(), end].concat();
        assert_eq!(end_after(deep).await, None);
    }

    proptest! {
        #[test]
        fn bytes_of_a_monitor_that_was_taken_over_are_read_to_their_end(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            is_line in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let start = if is_line { said(&Reply::Done) } else { Vec::new() };
            let end = runtime.block_on(end_after([start, bytes].concat()));
            prop_assert_eq!(end, None);
        }
    }
}
