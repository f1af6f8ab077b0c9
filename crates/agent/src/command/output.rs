//! A command's output on its way to the host, or to where a job's output is kept.
//!
//! A source is read only when the frame before is taken, so a host that does not read stops the
//! command at a full pipe and nothing grows here.
//!
//! When the command's main process ends, daemons may still hold its pipes. What the pipes hold at
//! that moment is sent; what comes later is read and thrown away, so that no daemon blocks or
//! dies of SIGPIPE.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use smolvm_protocol::{Frame, FrameKind, MAX_DATA_BYTES};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, watch};

use crate::conversation::{Failure, Outgoing};
use crate::sys::watch::watch;

/// How long the last output of a terminal may take from the kernel's queue to its controlling
/// side, once its session is over and the kernel hangs it up.
const HANG_UP_DEADLINE: Duration = Duration::from_secs(1);

/// What takes a command's output.
pub(crate) trait FrameSink: Sync {
    /// Takes one frame; ready when there is room for the next.
    fn take(&self, frame: Frame) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl FrameSink for Mutex<&mut Outgoing> {
    async fn take(&self, frame: Frame) -> Result<(), Failure> {
        self.lock().await.send(frame).await
    }
}

/// One source of output: a pipe, or the controlling side of a terminal.
#[derive(Debug)]
pub(crate) struct OutputSource {
    descriptor: AsyncFd<OwnedFd>,
    kind: FrameKind,
    is_terminal: bool,
    buffer: Vec<u8>,
}

impl OutputSource {
    /// Returns a source whose output becomes frames of `kind`. `descriptor` does not block.
    pub(crate) fn new(descriptor: OwnedFd, kind: FrameKind, is_terminal: bool) -> io::Result<Self> {
        Ok(Self {
            descriptor: watch(descriptor, Interest::READABLE)?,
            kind,
            is_terminal,
            buffer: vec![0; MAX_DATA_BYTES],
        })
    }

    /// Sends everything up to the end of the source, or up to what it holds when `ended` turns
    /// true. Returns the source if it is still open then.
    pub(crate) async fn pump(
        mut self,
        sink: &impl FrameSink,
        mut ended: watch::Receiver<bool>,
    ) -> Result<Option<Self>, Failure> {
        loop {
            let count = tokio::select! {
                biased;
                _ = ended.wait_for(|has_ended| *has_ended) => break,
                count = self.read(MAX_DATA_BYTES) => count,
            };
            if count == 0 {
                return Ok(None);
            }
            self.send(count, sink).await?;
        }
        if self.is_terminal {
            self.pump_hung_up(sink).await
        } else {
            self.pump_rest(sink).await
        }
    }

    /// Reads and throws away until the source ends.
    pub(crate) async fn discard(mut self) {
        while self.read(MAX_DATA_BYTES).await != 0 {}
    }

    /// Sends what the pipe holds now, however much is written meanwhile.
    async fn pump_rest(mut self, sink: &impl FrameSink) -> Result<Option<Self>, Failure> {
        let held = rustix::io::ioctl_fionread(self.descriptor.get_ref()).unwrap_or(0);
        let mut rest = usize::try_from(held).unwrap_or(usize::MAX);
        while rest > 0 {
            let count = self.read(rest.min(MAX_DATA_BYTES)).await;
            if count == 0 {
                return Ok(None);
            }
            rest -= count;
            self.send(count, sink).await?;
        }
        Ok(Some(self))
    }

    /// Sends what a terminal still delivers. The end of the session leader hangs the terminal up
    /// (credentials(7), tty_ioctl(4)), which ends it for its controlling side.
    async fn pump_hung_up(mut self, sink: &impl FrameSink) -> Result<Option<Self>, Failure> {
        let deadline = tokio::time::Instant::now() + HANG_UP_DEADLINE;
        loop {
            let read = tokio::time::timeout_at(deadline, self.read(MAX_DATA_BYTES));
            match read.await {
                Ok(0) => return Ok(None),
                Ok(count) => self.send(count, sink).await?,
                Err(_) => return Ok(Some(self)),
            }
        }
    }

    /// Reads at most `limit` bytes; zero at the end. Nothing is lost when it is dropped.
    async fn read(&mut self, limit: usize) -> usize {
        loop {
            let Ok(mut guard) = self.descriptor.readable().await else {
                // The runtime is shutting down.
                return pending().await;
            };
            let buffer = &mut self.buffer[..limit];
            let result = guard
                .try_io(|descriptor| Ok(rustix::io::read(descriptor.get_ref(), &mut *buffer)?));
            match result {
                Ok(Ok(count)) => return count,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO is how a terminal says that nobody has it open any more.
                Ok(Err(_)) => return 0,
                Err(_would_block) => {}
            }
        }
    }

    async fn send(&self, count: usize, sink: &impl FrameSink) -> Result<(), Failure> {
        let payload = Bytes::copy_from_slice(&self.buffer[..count]);
        let frame = Frame::data(self.kind, payload);
        sink.take(frame).await
    }
}
