//! The files that describe a sandbox: what was asked for, and where it is in its life.
//!
//! Both are JSON with a kind and a version. A file on disk is hostile input: its size is bounded
//! before it is read, unknown fields and versions are refused, and every value is re-validated.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smolvm_network::NetworkPolicy;

use crate::state::{SandboxState, Transition};
use crate::{ErrorKind, SandboxSpec, text};

/// Version of both files.
const VERSION: u32 = 1;

/// Longest description that is read, in bytes. A full record is below 8 KiB without its network
/// rules, of which there are up to [`smolvm_network::NetworkPolicy::MAX_RULES`].
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Longest reason that is kept, in characters.
const MAX_REASON_CHARS: usize = 1000;

/// Why a sandbox's description cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{} is damaged", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The file is larger than any legal one.
    #[error("{} is damaged: longer than {MAX_FILE_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file is of a version that this build does not know.
    #[error("{} has version {found}; this smolvm reads version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// The change is not one that the life cycle has.
    #[error("a sandbox that is {} cannot {transition:?}", state.as_str())]
    IllegalTransition {
        /// The present state.
        state: SandboxState,
        /// The change.
        transition: Transition,
    },
}

impl RecordError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::IllegalTransition { .. } => ErrorKind::Conflict,
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Malformed { .. }
            | Self::TooLong { .. }
            | Self::Version { .. } => ErrorKind::Host,
        }
    }
}

/// A sandbox's specification as it is saved.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    version: u32,
    created_unix_ms: u64,
    spec: SandboxSpec,
}

/// A sandbox's state as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateFile {
    version: u32,
    /// Where the sandbox is in its life.
    pub(crate) state: SandboxState,
    /// Since when, in milliseconds since the Unix epoch.
    pub(crate) since_unix_ms: u64,
    /// Why it is in this state, where that is not plain: one line for people.
    pub(crate) reason: Option<String>,
    /// The engine and accelerator it runs or ran on, such as `qemu (software emulation)`.
    pub(crate) engine: Option<String>,
}

impl StateFile {
    /// Returns the state of a sandbox that was just created.
    #[must_use]
    pub(crate) fn created() -> Self {
        Self {
            version: VERSION,
            state: SandboxState::Created,
            since_unix_ms: unix_time_ms(),
            reason: None,
            engine: None,
        }
    }

    /// Returns the state after `transition`.
    ///
    /// # Errors
    ///
    /// [`RecordError::IllegalTransition`] when the life cycle has no such change.
    pub(crate) fn after(
        &self,
        transition: Transition,
        reason: Option<&str>,
    ) -> Result<Self, RecordError> {
        let state = self
            .state
            .after(transition)
            .ok_or(RecordError::IllegalTransition {
                state: self.state,
                transition,
            })?;
        Ok(Self {
            version: VERSION,
            state,
            since_unix_ms: unix_time_ms(),
            reason: reason.map(|reason| text::excerpt(reason, MAX_REASON_CHARS)),
            engine: self.engine.clone(),
        })
    }
}

/// The files of one sandbox, by name.
#[derive(Clone, Debug)]
pub(crate) struct SandboxDir {
    path: PathBuf,
}

impl SandboxDir {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    pub(crate) fn owner(&self) -> PathBuf {
        self.path.join("owner")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("supervisor.sock")
    }

    /// Returns the socket on which peers are awaited.
    pub(crate) fn peers_socket(&self) -> PathBuf {
        self.path.join("peers.sock")
    }

    /// Returns what the sandbox's supervisor shows to those of peers.
    pub(crate) fn peers_proof(&self) -> PathBuf {
        self.path.join("peers.proof")
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.path.join("initramfs.img")
    }

    pub(crate) fn overlay(&self) -> PathBuf {
        self.path.join("overlay.img")
    }

    /// Is there as long as nothing has been written to the overlay.
    pub(crate) fn blank_mark(&self) -> PathBuf {
        self.path.join("overlay.blank")
    }

    pub(crate) fn console_log(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// Returns what happened on the sandbox's network, as JSON lines.
    pub(crate) fn network_log(&self) -> PathBuf {
        self.path.join("network.log")
    }

    pub(crate) fn supervisor_log(&self) -> PathBuf {
        self.path.join("supervisor.log")
    }

    pub(crate) fn plan(&self) -> PathBuf {
        self.path.join("plan.json")
    }

    /// Returns the values of the sandbox's secrets.
    pub(crate) fn secrets(&self) -> PathBuf {
        self.path.join("secrets.json")
    }

    /// Returns the sandbox's certificate authority with its key.
    pub(crate) fn authority(&self) -> PathBuf {
        self.path.join("authority.pem")
    }

    fn spec(&self) -> PathBuf {
        self.path.join("spec.json")
    }

    fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    pub(crate) fn write_spec(&self, spec: &SandboxSpec) -> Result<(), RecordError> {
        let file = SpecFile {
            version: VERSION,
            created_unix_ms: unix_time_ms(),
            spec: spec.clone(),
        };
        write_json(&self.spec(), &file)
    }

    /// Changes what the sandbox may reach.
    ///
    /// Preconditions: the caller holds the sandbox's lock.
    pub(crate) fn write_network(&self, network: &NetworkPolicy) -> Result<(), RecordError> {
        let path = self.spec();
        let mut file: SpecFile = read_json(&path)?;
        check_version(path.clone(), file.version)?;
        file.spec.network = network.clone();
        write_json(&path, &file)
    }

    /// Returns the specification and when it was made, in milliseconds since the Unix epoch.
    pub(crate) fn read_spec(&self) -> Result<(SandboxSpec, u64), RecordError> {
        let path = self.spec();
        let file: SpecFile = read_json(&path)?;
        check_version(path, file.version)?;
        Ok((file.spec, file.created_unix_ms))
    }

    pub(crate) fn write_state(&self, state: &StateFile) -> Result<(), RecordError> {
        write_json(&self.state(), state)
    }

    pub(crate) fn read_state(&self) -> Result<StateFile, RecordError> {
        let path = self.state();
        let file: StateFile = read_json(&path)?;
        check_version(path, file.version)?;
        Ok(file)
    }
}

fn check_version(path: PathBuf, found: u32) -> Result<(), RecordError> {
    if found == VERSION {
        Ok(())
    } else {
        Err(RecordError::Version { path, found })
    }
}

/// Writes `value` as JSON so that a reader finds the old file or the new one, never a part.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), RecordError> {
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        write_private(path, &text)
    };
    write().map_err(|source| RecordError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that its owner alone reads (tempfile makes it with mode 0600).
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

/// Reads a JSON file of at most [`MAX_FILE_BYTES`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| RecordError::Read {
        path: path.to_owned(),
        source,
    })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(RecordError::TooLong {
            path: path.to_owned(),
        });
    }
    serde_json::from_slice(&bytes).map_err(|source| RecordError::Malformed {
        path: path.to_owned(),
        source,
    })
}

/// Returns the wall clock in milliseconds since the Unix epoch.
pub(crate) fn unix_time_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// Returns how many bytes the files of `directory` use on the host, holes left out.
pub(crate) fn used_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;

    // st_blocks counts units of 512 bytes whatever the file system's block size (stat(2)).
    const BLOCK_BYTES: u64 = 512;
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.blocks() * BLOCK_BYTES)
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Lifetime, SandboxId};

    fn directory() -> (tempfile::TempDir, SandboxDir) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let files = SandboxDir::new(directory.path().to_owned());
        (directory, files)
    }

    #[test]
    fn spec_and_state_survive_the_disk() {
        let (_guard, files) = directory();
        let spec = SandboxSpec::new(SandboxId::random(), Lifetime::Leased);
        files.write_spec(&spec).expect("write");
        assert_eq!(files.read_spec().expect("read").0, spec);

        let state = StateFile::created();
        files.write_state(&state).expect("write");
        assert_eq!(files.read_state().expect("read"), state);
    }

    #[test]
    fn file_of_a_newer_version_is_refused_by_number() {
        let (_guard, files) = directory();
        let newer = StateFile {
            version: 7,
            ..StateFile::created()
        };
        files.write_state(&newer).expect("write");
        assert!(matches!(
            files.read_state(),
            Err(RecordError::Version { found: 7, .. })
        ));
    }

    #[test]
    fn file_longer_than_any_legal_one_is_not_read_whole() {
        let (_guard, files) = directory();
        let too_long = usize::try_from(MAX_FILE_BYTES).expect("small") + 1;
        fs::write(files.state(), vec![b' '; too_long]).expect("write");
        assert!(matches!(
            files.read_state(),
            Err(RecordError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let (_guard, files) = directory();
            fs::write(files.state(), &bytes).expect("write");
            fs::write(files.spec(), &bytes).expect("write");
            prop_assert!(files.read_state().is_err());
            prop_assert!(files.read_spec().is_err());
        }
    }
}
