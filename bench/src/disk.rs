//! Reading and writing a file of the guest past its page cache, as `fio --direct=1` does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Bytes read or written at once when it goes from one end to the other.
const PIECE_BYTES: usize = 128 * 1024;

/// Bytes read or written at once when it goes to and fro.
const BLOCK_BYTES: usize = 4096;

/// What direct access wants addresses and lengths to be multiples of (open(2), `O_DIRECT`).
#[repr(align(4096))]
struct Aligned([u8; PIECE_BYTES]);

/// How a file is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// From one end to the other, in large pieces.
    Sequential,
    /// Blocks of 4 KiB anywhere, one after the other.
    Random,
}

/// Writes `bytes` in all to the file at `path`, which is made when it is missing, and waits until
/// they are on the disk.
///
/// # Errors
///
/// When the file cannot be opened or written.
pub fn write(path: &Path, pattern: Pattern, bytes: u64) -> io::Result<()> {
    let file = open(path)?;
    let piece = Box::new(Aligned([0x55; PIECE_BYTES]));
    each(&file, pattern, bytes, |offset, length| {
        file.write_all_at(&piece.0[..length], offset)
    })?;
    file.sync_data()
}

/// Reads `bytes` in all from the file at `path`.
///
/// # Errors
///
/// When the file cannot be opened or is shorter.
pub fn read(path: &Path, pattern: Pattern, bytes: u64) -> io::Result<()> {
    let file = open(path)?;
    let mut piece = Box::new(Aligned([0; PIECE_BYTES]));
    each(&file, pattern, bytes, |offset, length| {
        file.read_exact_at(&mut piece.0[..length], offset)
    })
}

fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
}

/// Does something at offsets that make up so many bytes.
fn each(
    file: &File,
    pattern: Pattern,
    bytes: u64,
    mut once: impl FnMut(u64, usize) -> io::Result<()>,
) -> io::Result<()> {
    let length = match pattern {
        Pattern::Sequential => PIECE_BYTES,
        Pattern::Random => BLOCK_BYTES,
    };
    let step = u64::try_from(length).map_err(io::Error::other)?;
    let blocks = (file.metadata()?.len() / step).max(1);
    let mut place = 1;
    for number in 0..bytes / step {
        let block = match pattern {
            Pattern::Sequential => number,
            Pattern::Random => {
                place = next_random(place);
                place % blocks
            }
        };
        once(block * step, length)?;
    }
    Ok(())
}

/// Returns the number after this one in a row that looks like chance and is always the same:
/// xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
const fn next_random(mut number: u64) -> u64 {
    number ^= number << 13;
    number ^= number >> 7;
    number ^= number << 17;
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_look_like_chance_are_all_over_the_file() {
        let mut place = 1;
        let mut hit = [false; 64];
        for _ in 0..1024 {
            place = next_random(place);
            hit[usize::try_from(place % 64).unwrap()] = true;
        }
        assert!(hit.iter().all(|hit| *hit));
    }
}
