//! The link of a guest, as bytes: frames behind their lengths, and the packets in them.
//!
//! The gateway's policy denies everything. It answers with frames that are legal, or not at all.

use std::time::Duration;

use smolvm_network::Mode;

use crate::gateway::Link;
use crate::{guest_packets, runtime};

/// Bytes for each step of the first byte, in the pieces in which the input is sent.
const PIECE_BYTES: usize = 16;

/// Sends the input, in pieces whose length its first byte says.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else {
        return;
    };
    let piece = PIECE_BYTES * usize::from(piece) + 1;
    runtime::without_sockets(async {
        let mut link = Link::new(Mode::Off);
        for piece in bytes.chunks(piece) {
            link.send(piece).await;
            link.frames_after(Duration::ZERO).await;
        }
        link.end().await;
    });
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let frames = guest_packets::seed_frames();
    let one_each = frames
        .iter()
        .map(|frame| input(std::slice::from_ref(frame)));
    one_each.chain([input(&frames)]).collect()
}

fn input(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![4];
    for frame in frames {
        let length = u32::try_from(frame.len()).expect("short");
        bytes.extend(length.to_be_bytes());
        bytes.extend(frame);
    }
    bytes
}
