//! Connections to TCP ports of a guest.

use bytes::{Buf as _, BytesMut};
use futures::SinkExt as _;
use smolvm_protocol::Frame;
use smolvm_protocol::message::{Connect, Event, Request};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::Sandbox;
use crate::access::AccessError;
use crate::exec::next_event;

/// A TCP connection to a port of a guest's loopback. Shutting it down for writing is a half-close.
#[derive(Debug)]
pub struct GuestConnection {
    stream: UnixStream,
    /// What came together with the answer.
    read_ahead: BytesMut,
}

impl Sandbox {
    /// Connects to a TCP port of the guest's loopback.
    ///
    /// # Errors
    ///
    /// When nothing listens there, or the sandbox cannot be reached.
    pub async fn dial(&self, port: u16) -> Result<GuestConnection, AccessError> {
        let mut connection = self.access().open_stream().await?;
        let request = Request::Connect(Connect { port });
        connection.send(Frame::message(&request)?).await?;
        match next_event(&mut connection).await? {
            Some(Event::Connected) => {
                let parts = connection.into_parts();
                Ok(GuestConnection {
                    stream: parts.io,
                    read_ahead: parts.read_buf,
                })
            }
            Some(Event::Refused(refusal)) => Err(AccessError::Refused(refusal)),
            Some(_) => Err(AccessError::Unexpected),
            None => Err(self.access().not_running().await),
        }
    }
}

impl AsyncRead for GuestConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.read_ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.read_ahead[..length]);
        self.read_ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuestConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
