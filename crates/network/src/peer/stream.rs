//! A TCP connection between two gateways, on a stream that has no resets.
//!
//! ```text
//!   length: u32, big-endian, > 0    that many bytes
//!   length 0                        the end of this direction
//! ```
//!
//! A Unix socket's end says nothing about how it came. So each direction ends by a mark, and a
//! stream that ends without one was reset.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a length.
const HEADER_BYTES: usize = 4;

/// One end of such a connection. Dropping it before both directions have ended resets it.
#[derive(Debug)]
pub(crate) struct PeerStream<S> {
    stream: S,
    /// The length that is being read.
    header: Partial,
    /// Bytes that are still to be read of what the last length announced.
    unread: usize,
    is_read: bool,
    /// The length that is being written.
    announced: Partial,
    /// Bytes that are still to be written of what the last length announced.
    unwritten: usize,
    is_written: bool,
}

/// A length of which some bytes are done.
#[derive(Debug, Default)]
struct Partial {
    bytes: [u8; HEADER_BYTES],
    done: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PeerStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            header: Partial::default(),
            unread: 0,
            is_read: false,
            announced: Partial {
                done: HEADER_BYTES,
                ..Partial::default()
            },
            unwritten: 0,
            is_written: false,
        }
    }

    /// Reads the next length.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.header.done < HEADER_BYTES {
            let mut rest = ReadBuf::new(&mut self.header.bytes[self.header.done..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut rest))?;
            match rest.filled().len() {
                0 => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                length => self.header.done += length,
            }
        }
        self.header.done = 0;
        self.unread = usize::try_from(u32::from_be_bytes(self.header.bytes)).unwrap_or(usize::MAX);
        self.is_read = self.unread == 0;
        Poll::Ready(Ok(()))
    }

    fn announce(&mut self, length: u32) {
        self.announced = Partial {
            bytes: length.to_be_bytes(),
            done: 0,
        };
    }

    /// Writes what is left of the announced length and, behind it, of `bytes`. Returns how many of
    /// these; 0 when only the length has gone out.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let rest = &self.announced.bytes[self.announced.done..];
        let slices = [IoSlice::new(rest), IoSlice::new(bytes)];
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_header = sent.min(rest.len());
        self.announced.done += of_header;
        Poll::Ready(Ok(sent - of_header))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for PeerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread == 0 && !this.is_read {
            ready!(this.poll_header(cx))?;
        }
        let wanted = this.unread.min(buffer.remaining());
        if wanted == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let length = part.filled().len();
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        buffer.advance(length);
        this.unread -= length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PeerStream<S> {
    /// Preconditions: after `Pending`, what is written next begins with the same bytes.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.unwritten == 0 {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            this.announce(length);
            this.unwritten = usize::try_from(length).unwrap_or(usize::MAX);
        }
        let part = &bytes[..bytes.len().min(this.unwritten)];
        loop {
            let length = ready!(this.poll_send(cx, part))?;
            if length > 0 {
                this.unwritten -= length;
                return Poll::Ready(Ok(length));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.is_written {
            this.announce(0);
            this.is_written = true;
        }
        while this.announced.done < HEADER_BYTES {
            ready!(this.poll_send(cx, &[]))?;
        }
        // The socket itself stays open both ways: what comes back is not done yet.
        Pin::new(&mut this.stream).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn pair(buffer_bytes: usize) -> (PeerStream<DuplexStream>, PeerStream<DuplexStream>) {
        let (one, other) = duplex(buffer_bytes);
        (PeerStream::new(one), PeerStream::new(other))
    }

    #[tokio::test]
    async fn direction_that_has_ended_leaves_the_other_open() {
        let (mut one, mut other) = pair(64);
        one.write_all(b"question").await.expect("written");
        one.shutdown().await.expect("ended");
        let mut read = String::new();
        other.read_to_string(&mut read).await.expect("a clean end");
        assert_eq!(read, "question");
        other.write_all(b"answer").await.expect("written");
        other.shutdown().await.expect("ended");
        drop(other);
        let mut read = String::new();
        one.read_to_string(&mut read).await.expect("a clean end");
        assert_eq!(read, "answer");
    }

    #[tokio::test]
    async fn stream_that_ends_without_a_mark_was_reset() {
        let (mut one, mut other) = pair(64);
        one.write_all(b"half of it").await.expect("written");
        drop(one);
        let mut read = Vec::new();
        let error = other.read_to_end(&mut read).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(read, b"half of it");
    }

    #[tokio::test]
    async fn stream_that_ends_within_what_it_announced_was_reset() {
        let (mut raw, other) = duplex(64);
        let mut other = PeerStream::new(other);
        raw.write_all(b"\0\0\0\x09shor").await.expect("written");
        drop(raw);
        let error = other.read_to_end(&mut Vec::new()).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..500), 0..20),
            buffer_bytes in 1_usize..300,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            let expected = pieces.concat();
            let read = runtime.block_on(async {
                let (mut one, mut other) = pair(buffer_bytes);
                let writer = tokio::spawn(async move {
                    for piece in pieces {
                        one.write_all(&piece).await.expect("written");
                    }
                    one.shutdown().await.expect("ended");
                });
                let mut read = Vec::new();
                other.read_to_end(&mut read).await.expect("a clean end");
                writer.await.expect("no panic");
                read
            });
            prop_assert_eq!(read, expected);
        }
    }
}
