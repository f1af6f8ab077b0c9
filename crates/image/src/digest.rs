//! SHA-256 digests: of files, of bytes, and as text.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How much of a file is read at once.
///
/// Large enough that system calls do not count, small enough for any cache.
const READ_BYTES: usize = 128 * 1024;

/// How much of a sparse file is hashed or left out at once; part of what its digest means.
const SPARSE_BLOCK_BYTES: usize = 64 * 1024;

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 lower-case hexadecimal digits, this is {found:?}")]
pub struct DigestParseError {
    /// The text, cut to a printable length.
    pub found: String,
}

impl Digest {
    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads `path` to its end and returns the digest of its content.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Self(hasher.finalize().into())),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns a digest of the content of the sparse file `path` without reading its holes.
    ///
    /// It covers the file's size and every block that is not all zeros, with its position. So it
    /// depends on the content alone, not on where the holes are, but it is not the SHA-256 of
    /// the file's bytes: hashing the gigabytes of zeros of an empty disk takes longer than making
    /// it.
    pub(crate) fn of_sparse_file(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut hasher = Sha256::new();
        hasher.update(length.to_le_bytes());
        let mut block = vec![0; SPARSE_BLOCK_BYTES];
        let mut position = 0;
        while position < length {
            let data = match seek(&file, SeekFrom::Data(position)) {
                Ok(data) => data,
                // lseek(2): ENXIO means that only a hole is left.
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            let start = data - data % SPARSE_BLOCK_BYTES as u64;
            let size = usize::try_from(length - start).unwrap_or(usize::MAX);
            let block = &mut block[..size.min(SPARSE_BLOCK_BYTES)];
            file.read_exact_at(block, start)?;
            if block.iter().any(|byte| *byte != 0) {
                hasher.update(start.to_le_bytes());
                hasher.update(&*block);
            }
            position = start + SPARSE_BLOCK_BYTES as u64;
        }
        Ok(Self(hasher.finalize().into()))
    }

    /// Returns the first 16 digits, enough to tell the artefacts of one cache apart.
    pub(crate) fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(16);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || DigestParseError {
            found: text.chars().take(80).collect(),
        };
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 64 || !text.bytes().all(is_digit) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_input_has_the_published_digest() {
        // FIPS 180-4 example for the empty message.
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of_bytes(b"").to_string(), expected);
        assert_eq!(expected.parse::<Digest>(), Ok(Digest::of_bytes(b"")));
    }

    #[test]
    fn upper_case_and_short_texts_are_refused() {
        assert!("E3B0".parse::<Digest>().is_err());
        assert!("E".repeat(64).parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn the_digest_of_a_sparse_file_depends_on_its_content_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (sparse, dense) = (
            directory.path().join("sparse"),
            directory.path().join("dense"),
        );
        let mut content = vec![0; 3 * SPARSE_BLOCK_BYTES + 1000];
        content[SPARSE_BLOCK_BYTES + 5] = 1;
        content[3 * SPARSE_BLOCK_BYTES + 999] = 2;
        std::fs::write(&dense, &content).unwrap();
        let file = File::create(&sparse).unwrap();
        file.set_len(content.len() as u64).unwrap();
        file.write_all_at(&[1], SPARSE_BLOCK_BYTES as u64 + 5)
            .unwrap();
        file.write_all_at(&[2], 3 * SPARSE_BLOCK_BYTES as u64 + 999)
            .unwrap();
        let digest = Digest::of_sparse_file(&sparse).unwrap();
        assert_eq!(digest, Digest::of_sparse_file(&dense).unwrap());
        file.write_all_at(&[1], 0).unwrap();
        assert_ne!(digest, Digest::of_sparse_file(&sparse).unwrap());
    }
}
