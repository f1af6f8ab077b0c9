//! The manifest of one artefact: what it was made of and what it must still look like.
//!
//! A manifest is read back from disk and judged as hostile input: its size is bounded, unknown
//! fields are errors, and a file name can only name a file beside the manifest.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cache::ArtefactKind;
use crate::digest::Digest;

/// Name of the manifest inside an artefact's directory.
pub(super) const MANIFEST_FILE: &str = "manifest.json";

/// Version of the manifest's layout. It grows whenever a field is added or changes its meaning;
/// an artefact with another version is left alone and prepared anew.
const MANIFEST_VERSION: u32 = 1;

/// Largest manifest that is read. A kernel's, the longest, has some 20 files of 250 bytes each.
const MAX_MANIFEST_BYTES: u64 = 256 * 1024;

/// Most files one artefact can have.
const MAX_FILES: usize = 256;

/// Longest file name, in bytes: what the usual file systems take (`NAME_MAX`, linux/limits.h).
const MAX_NAME_BYTES: usize = 255;

/// Longest text of one input.
const MAX_INPUT_BYTES: usize = 4096;

/// What one artefact is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    version: u32,
    pub(super) kind: ArtefactKind,
    pub(super) key: String,
    /// When it was published, in milliseconds since 1970; the newest artefact of a key is used.
    pub(super) published_unix_ms: u64,
    /// What it was made of, in the words of the code that made it.
    pub(super) inputs: BTreeMap<String, String>,
    pub(super) files: Vec<FileRecord>,
}

/// What one file of an artefact must still look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    /// The digest that files of the manifest's kind have, see `ArtefactKind::digest_of`.
    pub(super) sha256: Digest,
    pub(super) stamp: Stamp,
}

/// What the file system says about a file that nobody has touched.
///
/// Changing a file's bytes changes its ctime, and ctime cannot be set back without setting the
/// clock. So equal stamps mean equal bytes, short of a failing disk; that is what a full
/// verification is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    inode: u64,
    modified_ns: i64,
    changed_ns: i64,
}

/// Why a manifest is not used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("the manifest cannot be read")]
    Read(#[source] io::Error),
    /// It is larger than any manifest this crate writes.
    #[error("the manifest is larger than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    /// It is not the JSON this crate writes.
    #[error("the manifest is damaged")]
    Syntax(#[source] serde_json::Error),
    /// A value in it is not one this crate writes.
    #[error("the manifest has an impossible {field}")]
    Value {
        /// The field.
        field: &'static str,
    },
}

impl Manifest {
    pub(super) fn new(
        kind: ArtefactKind,
        key: &str,
        published_unix_ms: u64,
        inputs: BTreeMap<String, String>,
        files: Vec<FileRecord>,
    ) -> Self {
        let key = key.to_owned();
        Self {
            version: MANIFEST_VERSION,
            kind,
            key,
            published_unix_ms,
            inputs,
            files,
        }
    }

    /// Reads the manifest of the artefact in `directory`; `None` is one of another version.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, ManifestError> {
        let file = File::open(directory.join(MANIFEST_FILE)).map_err(ManifestError::Read)?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(ManifestError::Read)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Option<Self>, ManifestError> {
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u32,
        }
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let found: VersionOnly = serde_json::from_slice(bytes).map_err(ManifestError::Syntax)?;
        if found.version != MANIFEST_VERSION {
            return Ok(None);
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Syntax)?;
        manifest.check()?;
        Ok(Some(manifest))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let invalid = |field| Err(ManifestError::Value { field });
        if self.files.is_empty() || self.files.len() > MAX_FILES {
            return invalid("number of files");
        }
        if !self.files.iter().all(|record| is_plain_name(&record.name)) {
            return invalid("file name");
        }
        let is_long = |text: &String| text.len() > MAX_INPUT_BYTES;
        if self
            .inputs
            .iter()
            .any(|(name, value)| is_long(name) || is_long(value))
        {
            return invalid("input");
        }
        Ok(())
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("maps with text keys and integers always serialize")
    }

    /// Returns the digest of the artefact's content: of the names and digests of its files.
    pub(super) fn content_digest(&self) -> Digest {
        let mut text = String::new();
        for record in &self.files {
            text.push_str(&format!("{} {}\n", record.sha256, record.name));
        }
        Digest::of_bytes(text.as_bytes())
    }
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            inode: metadata.ino(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Returns the stamp as one word, for an input of another artefact.
    pub(crate) fn to_text(self) -> String {
        format!("{}:{}:{}", self.inode, self.modified_ns, self.changed_ns)
    }
}

/// Says whether `name` can only name an entry of the directory it is joined to.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name != "."
        && name != ".."
        && name != MANIFEST_FILE
        && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(name: &str) -> Manifest {
        let stamp = Stamp {
            inode: 7,
            modified_ns: 8,
            changed_ns: 9,
        };
        let record = FileRecord {
            name: name.to_owned(),
            size_bytes: 3,
            sha256: Digest::of_bytes(b"abc"),
            stamp,
        };
        let inputs = BTreeMap::from([("package".to_owned(), "linux".to_owned())]);
        Manifest::new(ArtefactKind::Kernel, "cloud", 1, inputs, vec![record])
    }

    #[test]
    fn what_is_written_is_read_back() {
        let manifest = sample("vmlinux");
        assert_eq!(
            Manifest::parse(&manifest.to_json()).unwrap(),
            Some(manifest)
        );
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["../x", "/etc/passwd", "..", ".", "", "a/b", MANIFEST_FILE] {
            let error = Manifest::parse(&sample(name).to_json()).unwrap_err();
            assert!(
                matches!(error, ManifestError::Value { field: "file name" }),
                "{name}"
            );
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let json = sample("vmlinux").to_json();
        for length in 0..json.len() {
            assert!(Manifest::parse(&json[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn unknown_fields_are_refused_and_other_versions_are_left_alone() {
        let json = String::from_utf8(sample("vmlinux").to_json()).unwrap();
        let unknown = json.replacen("\"version\"", "\"extra\": 1, \"version\"", 1);
        assert!(matches!(
            Manifest::parse(unknown.as_bytes()),
            Err(ManifestError::Syntax(_))
        ));
        let newer = unknown.replacen("\"version\": 1", "\"version\": 2", 1);
        assert!(matches!(Manifest::parse(newer.as_bytes()), Ok(None)));
    }

    #[test]
    fn a_manifest_beyond_the_limit_is_not_parsed() {
        let bytes = vec![b' '; usize::try_from(MAX_MANIFEST_BYTES).unwrap() + 1];
        assert!(matches!(
            Manifest::parse(&bytes),
            Err(ManifestError::TooLarge)
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Manifest::parse(&bytes);
        }

        #[test]
        fn a_changed_byte_never_panics(position in 0usize..300, value in any::<u8>()) {
            let mut json = sample("vmlinux").to_json();
            let position = position % json.len();
            json[position] = value;
            let _ = Manifest::parse(&json);
        }
    }
}
