//! What a supervisor and its monitor say to each other, read as either of them.
//!
//! However the bytes come, they are the same requests; and what is understood is written so that it
//! is understood as the same. The supervisor's own reader is tested in `crates/sandbox`.

use std::fmt::Debug;
use std::io::{self, Read};
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use smolvm_protocol::vmm::{
    Disk, MAX_LINE_BYTES, MachineDescription, MachineEnd, MachineStats, NetworkInterface, Reply,
    Request,
};
use smolvm_vmm::fuzzing;

/// A stream whose bytes come in pieces.
struct InPieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl Read for InPieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.piece.min(self.rest.len()).min(buffer.len());
        let (piece, rest) = self.rest.split_at(length);
        buffer[..length].copy_from_slice(piece);
        self.rest = rest;
        Ok(length)
    }
}

/// Reads the input in pieces of as many bytes as its first byte says. One whose first byte is 255
/// has its lines repeated until they are longer than any may be.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Some((&piece, rest)) = input.split_first() else {
        return;
    };
    if piece == u8::MAX && !rest.is_empty() && !rest.contains(&b'\n') {
        let long = rest.repeat(MAX_LINE_BYTES / rest.len() + 1);
        assert!(fuzzing::requests(&long[..]).is_empty());
        return;
    }
    let piece = usize::from(piece).max(1);
    let requests = fuzzing::requests(rest);
    assert_eq!(requests, fuzzing::requests(InPieces { rest, piece }));
    let lines = rest.iter().filter(|byte| **byte == b'\n').count();
    assert!(requests.len() <= lines);
    for request in requests.iter().flatten() {
        survives(request);
    }
    for line in rest.split(|byte| *byte == b'\n') {
        if let Ok(reply) = serde_json::from_slice::<Reply>(line) {
            survives(&reply);
        }
    }
}

fn survives<T: Debug + PartialEq + Serialize + DeserializeOwned>(message: &T) {
    let text = serde_json::to_vec(message).expect("a path of text");
    let again: T = serde_json::from_slice(&text).expect("what was written");
    assert_eq!(again, *message);
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let boot = Request::Boot(MachineDescription {
        kernel: PathBuf::from("/kernel"),
        initramfs: PathBuf::from("/initramfs"),
        command_line: "quiet".to_owned(),
        vcpus: 2,
        memory_mib: 512,
        disks: vec![Disk {
            path: PathBuf::from("/disk"),
            serial: "root".to_owned(),
            is_read_only: true,
        }],
        network: Some(NetworkInterface {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
        }),
    });
    let requests = [
        boot,
        Request::Pause,
        Request::Resume,
        Request::PowerButton,
        Request::Stats,
    ];
    let message = || "why not".to_owned();
    let replies = [
        Reply::Done,
        Reply::Refused { message: message() },
        Reply::Stats(MachineStats::default()),
        Reply::Ended(MachineEnd::PoweredOff),
        Reply::Ended(MachineEnd::Reset),
        Reply::Ended(MachineEnd::Failed { message: message() }),
    ];
    let requests = requests.iter().map(line).collect::<Vec<_>>().concat();
    let replies = replies.iter().map(line).collect::<Vec<_>>().concat();
    vec![
        [&[7][..], &requests].concat(),
        [&[1][..], &replies].concat(),
        [&[100][..], b"no request\n\n", &requests, b"cut"].concat(),
        [&[u8::MAX][..], b"[[[["].concat(),
    ]
}

fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("it can be written");
    line.push(b'\n');
    line
}
