//! The agent's end of one stream: frames from the host, frames to the host.
//!
//! Both halves of a [`Conversation`] must be used from one task: yamux keeps a single waker for
//! what they share.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{AsyncRead as _, AsyncWrite as _, SinkExt, StreamExt};
use smolvm_protocol::message::{Event, Refusal};
use smolvm_protocol::{Frame, FrameCodec, FrameError, FrameKind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::refusal;

/// How long the host may take over the next frame of a request or of a file it sends. A host
/// that is alive sends within milliseconds; this is only so that nothing is kept for ever.
pub(crate) const INPUT_DEADLINE: Duration = Duration::from_secs(600);

/// How long the host may be silent on a finished stream before it is dropped.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Frames that blocking work may be ahead of the host: one being sent, one ready.
const FRAMES_AHEAD: usize = 2;

/// Why an operation ended without its normal last frame.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The host is to be told.
    Refused(Refusal),
    /// The host has gone away or does not listen.
    HostGone,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Both directions of a stream.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
}

/// Frames from the host.
#[derive(Debug)]
pub(crate) struct Incoming(FramedRead<HostStream, FrameCodec>);

/// Frames to the host.
#[derive(Debug)]
pub(crate) struct Outgoing(FramedWrite<HostStream, FrameCodec>);

impl Conversation {
    pub(crate) fn new(stream: yamux::Stream) -> Self {
        let stream = HostStream(Arc::new(Mutex::new(stream)));
        Self {
            incoming: Incoming(FramedRead::new(stream.clone(), FrameCodec)),
            outgoing: Outgoing(FramedWrite::new(stream, FrameCodec)),
        }
    }

    /// Ends the stream: no more is sent, and what the host is still sending is thrown away until
    /// it has noticed. A host that writes before it reads would otherwise wait for ever, because
    /// yamux gives no credit for a stream that is gone.
    pub(crate) async fn finish(mut self) {
        self.outgoing.close().await;
        while let Ok(Some(Ok(_))) = timeout(CLOSE_DEADLINE, self.incoming.next()).await {}
    }

    /// Returns the bare stream and what of it was read too far already.
    pub(crate) fn into_raw(self) -> (HostStream, bytes::Bytes) {
        let mut parts = self.incoming.0.into_parts();
        (parts.io, parts.read_buf.split().freeze())
    }

    /// Runs blocking `work` that produces frames, and sends these as the host takes them.
    pub(crate) async fn send_produced<W>(&mut self, work: W) -> Result<(), Failure>
    where
        W: FnOnce(&FrameSender) -> Result<(), Refusal> + Send + 'static,
    {
        let (sender, mut frames) = mpsc::channel(FRAMES_AHEAD);
        let work = tokio::task::spawn_blocking(move || work(&FrameSender(sender)));
        while let Some(frame) = frames.recv().await {
            self.outgoing.send(frame).await?;
        }
        finished(work.await)
    }

    /// Runs blocking `work` that consumes the host's input, up to its end frame.
    pub(crate) async fn feed_input<W>(&mut self, work: W) -> Result<(), Failure>
    where
        W: FnOnce(InputReader) -> Result<(), Refusal> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(FRAMES_AHEAD);
        let mut work = tokio::task::spawn_blocking(move || {
            work(InputReader {
                frames: receiver,
                current: bytes::Bytes::new(),
                is_complete: false,
            })
        });
        loop {
            let frame = tokio::select! {
                // Work that ends before the input does has failed; the rest is not read.
                result = &mut work => return finished(result),
                frame = self.incoming.next_in_time() => frame?,
            };
            if !matches!(frame.kind, FrameKind::Input | FrameKind::End) {
                return Err(refusal::malformed("expected an input or an end frame").into());
            }
            let is_end = frame.kind == FrameKind::End;
            // A closed channel means that the work has ended, which the next lines find out.
            let _ = sender.send(frame).await;
            if is_end {
                return finished(work.await);
            }
        }
    }
}

fn finished(result: Result<Result<(), Refusal>, tokio::task::JoinError>) -> Result<(), Failure> {
    // The panic hook has reported a panic; the stream is reset.
    result
        .map_err(|_| Failure::HostGone)?
        .map_err(Failure::Refused)
}

impl Incoming {
    /// Returns the next frame, or `None` when the host has ended its side.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Option<Result<Frame, Failure>> {
        let result = self.0.next().await?;
        Some(result.map_err(|error| match error {
            FrameError::Io(_) => Failure::HostGone,
            broken => refusal::malformed(&broken.to_string()).into(),
        }))
    }

    /// Returns the next frame of a request that is not complete yet.
    pub(crate) async fn next_in_time(&mut self) -> Result<Frame, Failure> {
        match timeout(INPUT_DEADLINE, self.next()).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(Failure::HostGone),
            Err(_) => Err(refusal::malformed("the request was not completed in time").into()),
        }
    }

    /// Returns whether the host has reset the stream, even if input is still unread.
    pub(crate) fn is_reset(&self) -> bool {
        self.0.get_ref().lock().is_closed()
    }
}

impl Outgoing {
    /// Sends one frame; ready when the host's window has taken it.
    pub(crate) async fn send(&mut self, frame: Frame) -> Result<(), Failure> {
        self.0.send(frame).await.map_err(|_| Failure::HostGone)
    }

    /// Sends one event.
    pub(crate) async fn send_event(&mut self, event: &Event) -> Result<(), Failure> {
        // An event is bounded by a path or two, far below the limit of a message.
        let frame = Frame::message(event).map_err(|_| Failure::HostGone)?;
        self.send(frame).await
    }

    /// Ends the stream in this direction.
    async fn close(&mut self) {
        // A stream that cannot be closed is dropped next.
        let _ = timeout(CLOSE_DEADLINE, self.0.close()).await;
    }
}

/// Where blocking work puts its frames. Blocks while the host is slow.
#[derive(Debug)]
pub(crate) struct FrameSender(mpsc::Sender<Frame>);

impl FrameSender {
    /// Sends one frame.
    ///
    /// # Errors
    ///
    /// When the host has gone away, so that the work is in vain.
    pub(crate) fn send(&self, frame: Frame) -> io::Result<()> {
        self.0
            .blocking_send(frame)
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Sends one event.
    ///
    /// # Errors
    ///
    /// As [`FrameSender::send`].
    pub(crate) fn send_event(&self, event: &Event) -> io::Result<()> {
        self.send(Frame::message(event).map_err(io::Error::other)?)
    }
}

/// The host's input as a file. Blocks while the host is slow.
///
/// Ends normally only after an end frame; input that is cut off is an error.
#[derive(Debug)]
pub(crate) struct InputReader {
    frames: mpsc::Receiver<Frame>,
    current: bytes::Bytes,
    is_complete: bool,
}

impl io::Read for InputReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.is_complete {
            let frame = self
                .frames
                .blocking_recv()
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            self.is_complete = frame.kind == FrameKind::End;
            self.current = frame.payload;
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// A yamux stream whose halves can be held apart.
#[derive(Clone, Debug)]
pub(crate) struct HostStream(
    /// Guards the stream while it is polled, which neither waits nor calls back.
    Arc<Mutex<yamux::Stream>>,
);

impl HostStream {
    fn lock(&self) -> MutexGuard<'_, yamux::Stream> {
        // yamux leaves a stream that panicked unusable, not unsafe: its session fails next.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for HostStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.lock();
        let was_open = !stream.is_write_closed();
        let free = buffer.initialize_unfilled();
        let count = ready!(Pin::new(&mut *stream).poll_read(context, free))?;
        if count == 0 && was_open && stream.is_closed() {
            // The host reset the stream: what it wanted is of no use to it any more.
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HostStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_close(context)
    }
}
