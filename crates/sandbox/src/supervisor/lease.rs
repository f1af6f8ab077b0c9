//! The connection to the process that started the supervisor.

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use smolvm_protocol::control::{LeaseEvent, LeaseRequest};
use smolvm_protocol::{Frame, FrameCodec};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::codec::Framed;

/// Events that may wait for a holder that reads slowly. A sandbox's life has fewer.
const EVENT_QUEUE: usize = 8;

/// What the holder of the lease has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseNotice {
    /// It has let go of the sandbox, which goes on.
    Released,
    /// It has gone.
    Lost,
}

/// The supervisor's end of the lease.
#[derive(Debug)]
pub(super) struct Lease {
    reader: SplitStream<Framed<UnixStream, FrameCodec>>,
    is_lost: bool,
    events: mpsc::Sender<LeaseEvent>,
    writer: JoinHandle<()>,
}

impl Lease {
    /// Takes the connection over.
    pub(super) fn start(connection: UnixStream) -> Self {
        let (sink, reader) = Framed::new(connection, FrameCodec).split();
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        Self {
            reader,
            is_lost: false,
            events,
            writer: tokio::spawn(write_events(queue, sink)),
        }
    }

    /// Tells the holder something; without effect when it has gone or does not read.
    pub(super) fn send(&self, event: LeaseEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("event not told: the lease's holder is gone or does not read");
        }
    }

    /// Waits for what the holder does next; forever when it has gone. Cancel-safe.
    pub(super) async fn notice(&mut self) -> LeaseNotice {
        if self.is_lost {
            return std::future::pending().await;
        }
        let frame = self.reader.next().await;
        match frame
            .and_then(Result::ok)
            .and_then(|frame| frame.parse::<LeaseRequest>().ok())
        {
            Some(LeaseRequest::Release) => LeaseNotice::Released,
            // The end of the connection, and anything that is not the protocol.
            None => {
                self.is_lost = true;
                LeaseNotice::Lost
            }
        }
    }

    /// Delivers what was said, as far as the holder takes it, and closes the connection.
    pub(super) async fn finish(self) {
        /// A holder that lives reads at once.
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

        drop(self.events);
        let _holder_does_not_read = tokio::time::timeout(PATIENCE, self.writer).await;
    }
}

async fn write_events(
    mut queue: mpsc::Receiver<LeaseEvent>,
    mut sink: SplitSink<Framed<UnixStream, FrameCodec>, Frame>,
) {
    while let Some(event) = queue.recv().await {
        let Ok(frame) = Frame::message(&event) else {
            continue;
        };
        if sink.send(frame).await.is_err() {
            return;
        }
    }
}
