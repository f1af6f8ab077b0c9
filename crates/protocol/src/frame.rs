//! Frames: what a stream of this protocol is cut into.
//!
//! ```text
//!   0        4      5
//!   +--------+------+---------------------+
//!   | length | kind | payload             |     length = big-endian u32, bytes of payload
//!   +--------+------+---------------------+
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};

/// Bytes in front of each payload: a `u32` length and a `u8` kind.
pub const FRAME_HEADER_BYTES: usize = 5;

/// Largest payload of a data frame, in bytes.
///
/// 64 KiB is the capacity of a Linux pipe (pipe(7)): one read of a command's output fills at most
/// one frame, and a stream never buffers more than a frame or two.
pub const MAX_DATA_BYTES: usize = 64 * 1024;

/// Largest payload of a message frame, in bytes.
///
/// Linux refuses a command line and environment of more than a quarter of the 8 MiB default stack
/// (execve(2), "Limits on size of arguments and environment": 2 MiB); twice that leaves room for
/// the encoding.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// What a frame's payload is. The numbers are the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// One MessagePack value of [`crate::message`] or [`crate::control`].
    Message = 1,
    /// Bytes from host to guest: standard input, the content of a file to write.
    Input = 2,
    /// Bytes from guest to host: standard output, the content of a file that is read.
    Output = 3,
    /// Bytes from guest to host: standard error.
    ErrorOutput = 4,
    /// The sender's bytes are complete. Without it, a stream that ends was cut off.
    End = 5,
}

impl FrameKind {
    /// Returns the largest payload a frame of this kind may have, in bytes.
    #[must_use]
    pub const fn max_payload_bytes(self) -> usize {
        match self {
            Self::Message => MAX_MESSAGE_BYTES,
            Self::Input | Self::Output | Self::ErrorOutput => MAX_DATA_BYTES,
            Self::End => 0,
        }
    }

    const fn from_wire(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Message),
            2 => Some(Self::Input),
            3 => Some(Self::Output),
            4 => Some(Self::ErrorOutput),
            5 => Some(Self::End),
            _ => None,
        }
    }
}

/// One unit of a stream: a message, a piece of data, or the end of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What [`Frame::payload`] is.
    pub kind: FrameKind,
    /// At most [`FrameKind::max_payload_bytes`] bytes.
    pub payload: Bytes,
}

impl Frame {
    /// Returns a data frame. A `payload` over [`MAX_DATA_BYTES`] is refused when it is encoded.
    #[must_use]
    pub const fn data(kind: FrameKind, payload: Bytes) -> Self {
        Self { kind, payload }
    }

    /// Returns the frame that says the sender's bytes are complete.
    #[must_use]
    pub const fn end() -> Self {
        Self {
            kind: FrameKind::End,
            payload: Bytes::new(),
        }
    }

    /// Encodes `message` into a frame.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] when the encoded message exceeds [`MAX_MESSAGE_BYTES`].
    pub fn message<T: Serialize>(message: &T) -> Result<Self, FrameError> {
        let payload = rmp_serde::to_vec_named(message).map_err(FrameError::Encode)?;
        let frame = Self {
            kind: FrameKind::Message,
            payload: payload.into(),
        };
        frame.check_length()?;
        Ok(frame)
    }

    /// Decodes the message that this frame carries.
    ///
    /// # Errors
    ///
    /// [`FrameError::NotAMessage`] for a frame of another kind, [`FrameError::Decode`] for bytes
    /// that are not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        if self.kind != FrameKind::Message {
            return Err(FrameError::NotAMessage { found: self.kind });
        }
        rmp_serde::from_slice(&self.payload).map_err(FrameError::Decode)
    }

    fn check_length(&self) -> Result<(), FrameError> {
        let limit = self.kind.max_payload_bytes();
        if self.payload.len() > limit {
            return Err(FrameError::TooLong {
                kind: self.kind,
                length: self.payload.len(),
                limit,
            });
        }
        Ok(())
    }
}

/// Why bytes are not a frame, or a frame is not a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The sender announced a kind that this build does not know.
    #[error("unknown frame kind {kind:#04x}")]
    UnknownKind {
        /// The kind byte found.
        kind: u8,
    },
    /// The frame is longer than its kind allows.
    #[error("{kind:?} frame of {length} bytes exceeds the limit of {limit} bytes")]
    TooLong {
        /// Kind of the frame.
        kind: FrameKind,
        /// Its payload's length, in bytes.
        length: usize,
        /// The limit for that kind, in bytes.
        limit: usize,
    },
    /// A data frame stood where a message must stand.
    #[error("expected a message frame, found {found:?}")]
    NotAMessage {
        /// Kind of the frame found.
        found: FrameKind,
    },
    /// The payload is not the message that was expected.
    #[error("malformed message")]
    Decode(#[source] rmp_serde::decode::Error),
    /// The message could not be encoded.
    #[error("unencodable message")]
    Encode(#[source] rmp_serde::encode::Error),
    /// The transport failed.
    #[error("stream failed")]
    Io(#[from] std::io::Error),
}

/// Cuts a byte stream into [`Frame`]s and back; for `tokio_util::codec::Framed`.
///
/// Holds no state: all that is buffered is in the caller's buffer, which never grows past one
/// frame beyond what one read delivers.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCodec;

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if buffer.len() < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let mut header = &buffer[..FRAME_HEADER_BYTES];
        let length = usize::try_from(header.get_u32()).unwrap_or(usize::MAX);
        let kind_byte = header.get_u8();
        let kind =
            FrameKind::from_wire(kind_byte).ok_or(FrameError::UnknownKind { kind: kind_byte })?;
        let limit = kind.max_payload_bytes();
        if length > limit {
            return Err(FrameError::TooLong {
                kind,
                length,
                limit,
            });
        }
        let total = FRAME_HEADER_BYTES + length;
        if buffer.len() < total {
            buffer.reserve(total - buffer.len());
            return Ok(None);
        }
        buffer.advance(FRAME_HEADER_BYTES);
        Ok(Some(Frame {
            kind,
            payload: buffer.split_to(length).freeze(),
        }))
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, buffer: &mut BytesMut) -> Result<(), FrameError> {
        frame.check_length()?;
        let length = u32::try_from(frame.payload.len())
            .expect("check_length bounds every payload by MAX_MESSAGE_BYTES, which fits a u32");
        buffer.reserve(FRAME_HEADER_BYTES + frame.payload.len());
        buffer.put_u32(length);
        buffer.put_u8(frame.kind as u8);
        buffer.put_slice(&frame.payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let data = prop_oneof![
            Just(FrameKind::Message),
            Just(FrameKind::Input),
            Just(FrameKind::Output),
            Just(FrameKind::ErrorOutput),
        ];
        prop_oneof![
            (data, proptest::collection::vec(any::<u8>(), 0..4096)).prop_map(|(kind, payload)| {
                Frame {
                    kind,
                    payload: payload.into(),
                }
            }),
            Just(Frame::end()),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            frames in proptest::collection::vec(any_frame(), 0..8),
            cut in 1usize..5000,
        ) {
            let mut stream = BytesMut::new();
            for frame in &frames {
                FrameCodec.encode(frame.clone(), &mut stream).expect("legal frame");
            }
            let mut received = BytesMut::new();
            let mut decoded = Vec::new();
            for piece in stream.chunks(cut) {
                received.extend_from_slice(piece);
                while let Some(frame) = FrameCodec.decode(&mut received).expect("legal stream") {
                    decoded.push(frame);
                }
            }
            prop_assert_eq!(decoded, frames);
            prop_assert!(received.is_empty());
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_reserve_more_than_a_frame(
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = FrameCodec.decode(&mut buffer) {}
            prop_assert!(buffer.capacity() <= 2 * (FRAME_HEADER_BYTES + MAX_MESSAGE_BYTES));
        }
    }

    #[test]
    fn announced_length_over_the_limit_is_refused_before_the_payload_arrives() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, FrameKind::Output as u8][..]);
        let error = FrameCodec.decode(&mut buffer).expect_err("4 GiB frame");
        assert!(
            matches!(
                error,
                FrameError::TooLong {
                    limit: MAX_DATA_BYTES,
                    ..
                }
            ),
            "{error}"
        );
        assert!(buffer.capacity() < MAX_DATA_BYTES);
    }

    #[test]
    fn unknown_kind_is_named_in_the_error() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 0, 9][..]);
        let error = FrameCodec
            .decode(&mut buffer)
            .expect_err("kind 9 is not defined");
        assert_eq!(error.to_string(), "unknown frame kind 0x09");
    }

    #[test]
    fn oversized_data_frame_is_not_encoded() {
        let frame = Frame::data(FrameKind::Input, vec![0; MAX_DATA_BYTES + 1].into());
        let mut buffer = BytesMut::new();
        assert!(matches!(
            FrameCodec.encode(frame, &mut buffer),
            Err(FrameError::TooLong {
                kind: FrameKind::Input,
                ..
            })
        ));
        assert!(buffer.is_empty());
    }
}
