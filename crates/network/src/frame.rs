//! Ethernet frames on a byte stream: each behind its length as a 4-byte big-endian number, as
//! QEMU's `-netdev stream` writes them (QEMU 7.2, net/stream.c, `net_stream_receive`).

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::throttle::Throttle;

/// Bytes of the length before each frame.
pub(crate) const PREFIX_BYTES: usize = 4;

/// Bytes of an Ethernet header without a VLAN tag (IEEE 802.3 §3.1.1).
pub(crate) const ETHERNET_BYTES: usize = 14;

/// Longest frame: the longest IPv4 packet (RFC 791 §3.1, "Total Length") and its header. QEMU's
/// own buffer has 4,096 bytes more than 64 KiB (include/net/net.h, `NET_BUFSIZE`).
const MAX_FRAME_BYTES: usize = 65_535 + ETHERNET_BYTES;

/// Bytes that are made room for at once: many small frames, or some large.
const READ_BYTES: usize = 128 * 1024;

/// Frames written at once, at most.
const WRITE_BATCH: usize = 64;

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// Returns the next frame, or `None` at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the stream fails, or carries what is no frame: then it has lost its meaning.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < MAX_FRAME_BYTES {
                // What is there may be shared with frames that are still under way: then this is
                // new memory, which is not to be taken for every small frame.
                self.buffer.reserve(READ_BYTES);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Takes a frame out of what has been read, when there is a whole one.
    fn take(&mut self) -> io::Result<Option<Bytes>> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes; the longest has {MAX_FRAME_BYTES}"),
            ));
        }
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Writes frames, which have their length before them already, as fast as `throttle` lets them,
/// until no sender is left or the stream fails.
pub(crate) async fn write_frames(
    mut stream: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Vec<u8>>,
    throttle: &Throttle,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    loop {
        if frames.recv_many(&mut batch, WRITE_BATCH).await == 0 {
            return Ok(());
        }
        throttle.take(batch.iter().map(Vec::len).sum()).await;
        match batch.as_slice() {
            // The common case under load is one large frame: written as it is.
            [frame] => stream.write_all(frame).await?,
            frames => stream.write_all(&frames.concat()).await?,
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn on_wire(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            let length = u32::try_from(frame.len()).expect("short");
            bytes.extend(length.to_be_bytes());
            bytes.extend(frame);
        }
        bytes
    }

    async fn read_all(bytes: &[u8]) -> io::Result<Vec<Bytes>> {
        let mut reader = FrameReader::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frame_longer_than_any_ends_the_stream() {
        let error = read_all(&[0, 1, 0, 14, 0]).await.expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            let read = runtime.block_on(async {
                let (ours, theirs) = tokio::io::duplex(333);
                let (sender, receiver) = mpsc::channel(frames.len().max(1));
                for frame in &frames {
                    sender.try_send(on_wire(std::slice::from_ref(frame))).expect("room");
                }
                drop(sender);
                let writer = tokio::spawn(async move { write_frames(ours, receiver, &Throttle::new(None)).await });
                let mut reader = FrameReader::new(theirs);
                let mut read = Vec::new();
                while let Some(frame) = reader.next().await.expect("frames") {
                    read.push(frame.to_vec());
                }
                writer.await.expect("no panic").expect("written");
                read
            });
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn random_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            let _either = runtime.block_on(read_all(&bytes));
        }
    }
}
