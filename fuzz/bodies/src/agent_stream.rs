//! What a guest's agent, which may be anybody by now, sends on a stream: frames and messages.
//!
//! However the bytes are cut, the frames are the same; and a message that is understood is written
//! so that it is understood as the same.

use std::fmt::Debug;

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smolvm_protocol::control::{SupervisorReply, SupervisorRequest};
use smolvm_protocol::message::{Control, Event, Exit, ExitReason, Request};
use smolvm_protocol::{Frame, FrameCodec, FrameKind};
use tokio_util::codec::{Decoder as _, Encoder as _};

/// Cuts the input into frames, in pieces of as many bytes as its first byte says, and reads each
/// as every kind of message.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else {
        return;
    };
    let (frames, is_whole) = frames(bytes, bytes.len().max(1));
    let in_pieces = self::frames(bytes, usize::from(piece).max(1));
    assert_eq!(in_pieces, (frames.clone(), is_whole));
    for frame in frames {
        assert!(frame.payload.len() <= frame.kind.max_payload_bytes());
        understand::<Event>(&frame);
        understand::<Request>(&frame);
        understand::<Control>(&frame);
        understand::<SupervisorRequest>(&frame);
        understand::<SupervisorReply>(&frame);
    }
}

/// Returns the frames of a stream that comes in pieces, and whether it is one to its end.
fn frames(bytes: &[u8], piece: usize) -> (Vec<Frame>, bool) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match FrameCodec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}

fn understand<T: Debug + PartialEq + Serialize + DeserializeOwned>(frame: &Frame) {
    let Ok(message) = frame.parse::<T>() else {
        return;
    };
    let again = Frame::message(&message).expect("no longer than what was read");
    assert_eq!(again.parse::<T>().expect("what was written"), message);
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let stat = Request::Stat {
        path: b"/etc/hostname".to_vec().into(),
        follow: true,
    };
    let exited = Event::Exited(Exit {
        reason: ExitReason::Signalled { number: 9 },
        elapsed_ms: 1000,
    });
    let streams = [
        vec![Frame::message(&exited).expect("short")],
        vec![Frame::message(&Event::Done).expect("short"), Frame::end()],
        vec![Frame::message(&stat).expect("short")],
        vec![
            Frame::data(FrameKind::Output, vec![b'x'; 40].into()),
            Frame::data(FrameKind::ErrorOutput, vec![b'y'; 3].into()),
            Frame::end(),
        ],
    ];
    streams
        .into_iter()
        .map(|frames| {
            let mut bytes = BytesMut::from(&[3][..]);
            for frame in frames {
                FrameCodec.encode(frame, &mut bytes).expect("legal");
            }
            bytes.to_vec()
        })
        .collect()
}
