//! The agent's port as a byte stream.
//!
//! A virtio-console port (drivers/char/virtio_console.c) says EOF and POLLHUP while the host has
//! it closed, and goes on when the host opens it again. tokio's own registration keeps a hang-up
//! for ever, so the port is watched by an epoll instance of its own, edge-triggered, and tokio
//! watches that.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::boot::agent_port;
use crate::sys::watch::watch;

/// The opened port.
#[derive(Debug)]
pub(crate) struct AgentPort {
    port: Arc<OwnedFd>,
    node: PathBuf,
}

/// One session's use of the port; read and written by one task.
#[derive(Debug)]
pub(crate) struct PortStream {
    port: Arc<OwnedFd>,
    changes: Changes,
}

impl AgentPort {
    /// Takes over the open port of which `node` is the device.
    pub(crate) fn new(port: OwnedFd, node: PathBuf) -> Self {
        Self {
            port: Arc::new(port),
            node,
        }
    }

    /// Closes the port and opens it again.
    ///
    /// # Errors
    ///
    /// When it cannot be opened again.
    pub(crate) fn reopened(self) -> io::Result<Self> {
        // The kernel lets nobody open it while it is open.
        drop(self.port);
        Ok(Self::new(agent_port::open_node(&self.node)?, self.node))
    }

    /// Waits until the host has the port open, and returns the stream to it.
    ///
    /// # Errors
    ///
    /// When the port cannot be watched.
    pub(crate) async fn accept(&self) -> io::Result<PortStream> {
        let changes = Changes::of(&self.port)?;
        while !is_host_connected(&self.port)? {
            std::future::poll_fn(|context| changes.poll(context)).await?;
        }
        Ok(PortStream {
            port: Arc::clone(&self.port),
            changes,
        })
    }
}

fn is_host_connected(port: &OwnedFd) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(port, PollFlags::OUT)];
    let at_once = Timespec::default();
    poll(&mut descriptors, Some(&at_once))?;
    Ok(!descriptors[0].revents().contains(PollFlags::HUP))
}

/// Changes of a port's state: data, room, opened or closed by the host.
#[derive(Debug)]
struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    fn of(port: &OwnedFd) -> io::Result<Self> {
        let watcher = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&watcher, port, EventData::new_u64(0), flags)?;
        Ok(Self(watch(watcher, Interest::READABLE)?))
    }

    /// Ready once after each change.
    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let mut events = Vec::with_capacity(1);
            let at_once = Timespec::default();
            epoll::wait(
                self.0.get_ref(),
                spare_capacity(&mut events),
                Some(&at_once),
            )?;
            guard.clear_ready();
            if !events.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl PortStream {
    /// Tries `attempt` now and after each change until it does not have to wait.
    fn poll_io(
        &self,
        context: &mut Context<'_>,
        mut attempt: impl FnMut(&OwnedFd) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match attempt(&self.port) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready!(self.changes.poll(context))?;
                    // The change may have been what the other direction waits for.
                    context.waker().wake_by_ref();
                }
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let free = buffer.initialize_unfilled();
        let count = ready!(self.poll_io(context, |port| rustix::io::read(port, &mut *free)))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(context, |port| {
            // While the host has the port closed, a write waits; the stream is over instead.
            match rustix::io::write(port, bytes) {
                Err(Errno::AGAIN) if !is_host_connected(port).unwrap_or(false) => Err(Errno::PIPE),
                result => result,
            }
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
