//! Moves bytes between a guest's TCP connection and a stream of the host's.
//!
//! ```text
//!   guest's packets --> [ terminal ] --receive buffer--> host.write      (held until it is open)
//!   guest's packets <-- [ terminal ] <---send buffer---- host.read
//! ```
//!
//! Nothing is stored but in the terminal's two buffers: a host that does not take bytes closes the
//! guest's window, and a guest that does not read stops the reading from the host. Each direction
//! ends by itself, so half-closed connections stay what they are.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use smoltcp::socket::tcp::{self, State};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::PollSender;

use super::outgoing::Outgoing;
use super::packet::Packet;
use super::terminal::Terminal;
use crate::PlaceholderScan;

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides closed.
    Closed,
    /// The guest reset the connection.
    ResetByGuest,
    /// The host's side failed, and the guest's was reset.
    HostFailed(io::Error),
    /// The guest's link is gone.
    LinkGone,
    /// The guest's connection was reset for what it showed.
    Refused,
    /// The guest's connection was reset, because a change of the policy denies it.
    Revoked,
    /// The guest's connection was reset, because it sent the placeholder of this secret.
    Leak(Arc<str>),
    /// The gateway could not read what it had to read, for this reason.
    Unreadable(String),
}

/// One guest's connection with what moves its bytes.
pub(crate) struct Relay<'a> {
    terminal: Terminal,
    packets: &'a mut mpsc::Receiver<Packet>,
    frames: PollSender<Vec<u8>>,
    timer: Pin<Box<Sleep>>,
    /// The host will send nothing more, and the guest has been or will be told.
    is_host_done: bool,
    /// The guest will send nothing more, and the host has been told.
    is_guest_done: bool,
    /// Looks for placeholders of secrets in what the guest sends, where there are secrets.
    scan: Option<PlaceholderScan>,
    /// Bytes at the front of the receive buffer that the scan has seen.
    scanned: usize,
    /// Bytes that the guest sent and the host took.
    pub(crate) sent_bytes: u64,
    /// Bytes that the host sent and the guest's connection took.
    pub(crate) received_bytes: u64,
}

impl<'a> Relay<'a> {
    pub(crate) fn new(
        terminal: Terminal,
        packets: &'a mut mpsc::Receiver<Packet>,
        outgoing: &Outgoing,
    ) -> Self {
        Self {
            terminal,
            packets,
            frames: outgoing.queue(),
            timer: Box::pin(sleep(std::time::Duration::ZERO)),
            is_host_done: false,
            is_guest_done: false,
            scan: None,
            scanned: 0,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }

    /// From now on, ends the connection where the guest sends what `scan` looks for.
    pub(crate) fn watch_for(&mut self, scan: PlaceholderScan) {
        self.scan = scan.is_needed().then_some(scan);
    }

    /// Waits until the guest has accepted the connection that a [`Terminal::connecting`] asks for.
    ///
    /// # Errors
    ///
    /// How the connection ended instead.
    pub(crate) async fn connected(&mut self) -> Result<(), End> {
        poll_fn(|cx| {
            loop {
                let mut has_moved = self.poll_packets(cx)?;
                self.terminal.advance();
                has_moved |= self.poll_frames(cx)?;
                match self.terminal.socket().state() {
                    State::SynSent => {}
                    State::Closed => return Poll::Ready(Err(End::ResetByGuest)),
                    _ => return Poll::Ready(Ok(())),
                }
                if !has_moved && self.poll_timer(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Moves bytes both ways until the connection has ended.
    pub(crate) async fn run(&mut self, host: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> End {
        let end = poll_fn(|cx| self.poll(cx, host, true)).await;
        self.flush().await;
        end
    }

    /// Moves bytes to the guest only, and has `look` see what the guest has sent so far, until
    /// `look` has seen enough. It is told when there will not be more.
    ///
    /// # Errors
    ///
    /// How the connection ended, when it did before that.
    pub(crate) async fn hold<T>(
        &mut self,
        host: &mut (impl AsyncRead + AsyncWrite + Unpin),
        mut look: impl FnMut(&[u8], bool) -> Option<T>,
    ) -> Result<T, End> {
        let mut seen = Vec::new();
        poll_fn(|cx| {
            if let Poll::Ready(end) = self.poll(cx, host, false) {
                return Poll::Ready(Err(end));
            }
            let socket = self.terminal.socket();
            let is_complete = has_closed(socket) || socket.recv_queue() == socket.recv_capacity();
            if socket.recv_queue() == seen.len() && !is_complete {
                return Poll::Pending;
            }
            seen.resize(socket.recv_queue(), 0);
            let seen_bytes = socket.peek_slice(&mut seen).unwrap_or(0);
            match look(&seen[..seen_bytes], is_complete) {
                Some(found) => Poll::Ready(Ok(found)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Resets the guest's connection.
    pub(crate) async fn reset(&mut self) {
        self.terminal.socket().abort();
        self.terminal.advance();
        self.flush().await;
    }

    /// Sends the last frames: a guest's link that is gone does not take them.
    async fn flush(&mut self) {
        while let Some(frame) = self.terminal.next_frame() {
            let sent = poll_fn(|cx| self.frames.poll_reserve(cx)).await;
            if sent.is_err() || self.frames.send_item(frame).is_err() {
                return;
            }
        }
    }

    fn poll<H: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        host: &mut H,
        is_open: bool,
    ) -> Poll<End> {
        loop {
            let mut has_moved = match self.poll_packets(cx) {
                Ok(has_moved) => has_moved,
                Err(end) => return Poll::Ready(end),
            };
            self.terminal.advance();
            let moved = self
                .poll_frames(cx)
                .and_then(|moved| Ok(moved | self.poll_host(cx, host)?))
                .and_then(|moved| Ok(moved | (is_open && self.poll_guest(cx, host)?)));
            match moved {
                Ok(moved) => has_moved |= moved,
                Err(end) => {
                    self.terminal.advance();
                    return Poll::Ready(end);
                }
            }
            if let Some(end) = self.ended() {
                return Poll::Ready(end);
            }
            if !has_moved && self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Takes what the guest has sent. Returns whether there was something.
    fn poll_packets(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut has_moved = false;
        while self.terminal.has_room() {
            match self.packets.poll_recv(cx) {
                Poll::Ready(Some(packet)) => self.terminal.take(packet.bytes),
                Poll::Ready(None) => return Err(End::LinkGone),
                Poll::Pending => break,
            }
            has_moved = true;
        }
        Ok(has_moved)
    }

    /// Sends what the terminal has for the guest. Returns whether there was something.
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut has_moved = false;
        while self.terminal.has_frames() {
            match self.frames.poll_reserve(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(End::LinkGone),
                Poll::Pending => break,
            }
            if let Some(frame) = self.terminal.next_frame() {
                self.frames
                    .send_item(frame)
                    .map_err(|_closed| End::LinkGone)?;
            }
            has_moved = true;
        }
        Ok(has_moved)
    }

    /// Moves bytes from the host to the guest. Returns whether some moved.
    fn poll_host<H: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        host: &mut H,
    ) -> Result<bool, End> {
        let mut has_moved = false;
        let socket = self.terminal.socket();
        while !self.is_host_done && socket.can_send() {
            let read = socket.send(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                let poll = Pin::new(&mut *host).poll_read(cx, &mut buffer);
                let length = buffer.filled().len();
                (length, poll.map_ok(|()| length))
            });
            match read {
                Ok(Poll::Ready(Ok(0))) => {
                    self.is_host_done = true;
                    socket.close();
                }
                Ok(Poll::Ready(Ok(length))) => {
                    self.received_bytes += u64::try_from(length).unwrap_or(0);
                }
                Ok(Poll::Ready(Err(error))) => {
                    socket.abort();
                    return Err(End::HostFailed(error));
                }
                Ok(Poll::Pending) | Err(_) => break,
            }
            has_moved = true;
        }
        Ok(has_moved)
    }

    /// Moves bytes from the guest to the host. Returns whether some moved.
    fn poll_guest<H: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        host: &mut H,
    ) -> Result<bool, End> {
        let mut has_moved = false;
        let socket = self.terminal.socket();
        while socket.can_recv() {
            let (scan, scanned) = (&mut self.scan, &mut self.scanned);
            let mut leak = None;
            let written = socket.recv(|bytes| {
                if let Some(scan) = scan {
                    leak = scan.push(&bytes[*scanned..]);
                    if leak.is_some() {
                        return (0, Poll::Pending);
                    }
                    *scanned = bytes.len();
                }
                let poll = Pin::new(&mut *host).poll_write(cx, bytes);
                let length = match &poll {
                    Poll::Ready(Ok(length)) => *length,
                    _ => 0,
                };
                *scanned = scanned.saturating_sub(length);
                (length, poll)
            });
            if let Some(secret) = leak {
                socket.abort();
                return Err(End::Leak(secret));
            }
            match written {
                Ok(Poll::Ready(Ok(length))) if length > 0 => {
                    self.sent_bytes += u64::try_from(length).unwrap_or(0);
                }
                Ok(Poll::Ready(result)) => {
                    socket.abort();
                    let error = result
                        .err()
                        .unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                    return Err(End::HostFailed(error));
                }
                Ok(Poll::Pending) | Err(_) => break,
            }
            has_moved = true;
        }
        if !self.is_guest_done && has_closed(socket) && socket.recv_queue() == 0 {
            // A host that cannot be told is gone, which reading from it says.
            if Pin::new(host).poll_shutdown(cx).is_ready() {
                self.is_guest_done = true;
                has_moved = true;
            }
        }
        Ok(has_moved)
    }

    /// Returns how the connection has ended, once it has.
    fn ended(&mut self) -> Option<End> {
        let is_over = self.is_host_done && self.is_guest_done;
        match self.terminal.socket().state() {
            // What the guest may still repeat in this state is answered with a reset, and it is
            // done by then.
            State::TimeWait | State::Closed if is_over => Some(End::Closed),
            State::Closed => Some(End::ResetByGuest),
            _ => None,
        }
    }

    /// Arms the timer for what the terminal has to do by itself.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(delay) = self.terminal.delay() else {
            return Poll::Pending;
        };
        if delay.is_zero() && self.terminal.has_frames() {
            // It waits for room in the queue, which wakes this task.
            return Poll::Pending;
        }
        self.timer.as_mut().reset(Instant::now() + delay);
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(())
    }
}

/// Returns whether the guest has said that it will send nothing more.
fn has_closed(socket: &tcp::Socket<'_>) -> bool {
    matches!(
        socket.state(),
        State::CloseWait | State::Closing | State::LastAck | State::TimeWait
    )
}
