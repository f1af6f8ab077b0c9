//! What a session leaves on the host: its files as one archive, and its downloads as they come.
//!
//! What comes from the guest is hostile: names are those of files in one directory, and no file is
//! longer than the guest said before, nor all together than its disk.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use smolvm_protocol::message::{Attributes, Exec, ExitReason, FileKind, RefusalCode};

use crate::exec::{EndReason, Output};
use crate::{AccessError, ErrorKind, ExecError, Sandbox};

/// Name that Chromium gives a download until it is complete.
const UNFINISHED: &str = "crdownload";

/// Why what a session leaves could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A file of the host could not be written.
    #[error("{action} {}", path.display())]
    Host {
        /// What was attempted, such as `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The guest has more than its disk holds.
    #[error("the guest sent more than {max_bytes} bytes")]
    TooMuch {
        /// The most that is taken.
        max_bytes: u64,
    },
    /// The guest could not pack them.
    #[error("pack the artifacts: the guest's command ended with exit code {exit_code}")]
    NotPacked {
        /// Its exit code.
        exit_code: i32,
    },
    /// The guest failed or refused.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The guest's command could not be run.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

impl ArtifactError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Host { .. } => ErrorKind::Host,
            Self::TooMuch { .. } | Self::NotPacked { .. } => ErrorKind::GuestFailed,
            Self::Access(error) => error.kind(),
            Self::Exec(error) => error.kind(),
        }
    }
}

/// Has the guest run `pack` and keeps its output in the file `output`, whole or not at all.
pub(super) async fn collect(
    sandbox: &Sandbox,
    pack: Exec,
    output: &Path,
    max_bytes: u64,
) -> Result<(), ArtifactError> {
    let mut process = sandbox.exec(pack).await?;
    let mut file = new_beside(output)?;
    let mut left = max_bytes;
    loop {
        match process.output.next().await? {
            Output::Stdout(bytes) => {
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                left = left
                    .checked_sub(length)
                    .ok_or(ArtifactError::TooMuch { max_bytes })?;
                file.write_all(&bytes).map_err(host("write", output))?;
            }
            Output::Stderr(_) => {}
            Output::End(end) => {
                if end.reason != EndReason::Guest(ExitReason::Exited { code: 0 }) {
                    let exit_code = end.reason.exit_code();
                    return Err(ArtifactError::NotPacked { exit_code });
                }
                break;
            }
        }
    }
    file.persist(output)
        .map_err(|error| host("write", output)(error.error))?;
    Ok(())
}

/// Copies the finished downloads in the guest's directory `from` that the host's directory `into`
/// does not have yet. Returns where all finished ones are, by name.
pub(super) async fn copy_downloads(
    sandbox: &Sandbox,
    from: &Path,
    into: &Path,
    max_bytes: u64,
) -> Result<Vec<PathBuf>, ArtifactError> {
    fs::create_dir_all(into).map_err(host("create", into))?;
    let entries = match sandbox.list_directory(from.as_os_str().as_bytes()).await {
        Err(AccessError::Refused(refusal)) if refusal.code == RefusalCode::NotFound => Vec::new(),
        entries => entries?,
    };
    let mut copies = Vec::new();
    let mut total: u64 = 0;
    for entry in entries {
        let name = Path::new(OsStr::from_bytes(&entry.name));
        if entry.attributes.kind != FileKind::File || !is_finished(name) {
            continue;
        }
        total = total.saturating_add(entry.attributes.size);
        if total > max_bytes {
            return Err(ArtifactError::TooMuch { max_bytes });
        }
        let copy = into.join(name);
        if !is_copied(&copy, &entry.attributes) {
            copy_one(sandbox, &from.join(name), &copy).await?;
        }
        copies.push(copy);
    }
    Ok(copies)
}

/// Returns whether a guest's name is that of one file, and the file is complete.
fn is_finished(name: &Path) -> bool {
    let mut components = name.components();
    let is_one =
        matches!(components.next(), Some(Component::Normal(part)) if part == name.as_os_str());
    is_one && components.next().is_none() && name.extension() != Some(OsStr::new(UNFINISHED))
}

fn is_copied(copy: &Path, original: &Attributes) -> bool {
    fs::symlink_metadata(copy).is_ok_and(|found| {
        found.is_file()
            && found.len() == original.size
            && found.modified().ok() == modified(original)
    })
}

fn modified(file: &Attributes) -> Option<SystemTime> {
    let since = u64::try_from(file.modified_unix_ns).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(since))
}

async fn copy_one(sandbox: &Sandbox, from: &Path, copy: &Path) -> Result<(), ArtifactError> {
    let (attributes, mut reader) = sandbox.read_file(from.as_os_str().as_bytes()).await?;
    let mut file = new_beside(copy)?;
    let max_bytes = attributes.size;
    let mut left = max_bytes;
    while let Some(bytes) = reader.next().await? {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        left = left
            .checked_sub(length)
            .ok_or(ArtifactError::TooMuch { max_bytes })?;
        file.write_all(&bytes).map_err(host("write", copy))?;
    }
    let file: File = file
        .persist(copy)
        .map_err(|error| host("write", copy)(error.error))?;
    if let Some(modified) = modified(&attributes) {
        let times = FileTimes::new().set_modified(modified);
        file.set_times(times).map_err(host("write", copy))?;
    }
    Ok(())
}

/// Makes a file without a name that can take that of `path`; only its owner reads it.
fn new_beside(path: &Path) -> Result<tempfile::NamedTempFile, ArtifactError> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    tempfile::Builder::new()
        .prefix(".smolvm-")
        .tempfile_in(directory)
        .map_err(host("create a file in", directory))
}

fn host(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::Host {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_or_are_unfinished_are_no_downloads() {
        for name in [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "../x",
            "a/b",
            "a/",
            "./a",
            "report.pdf.crdownload",
        ] {
            assert!(!is_finished(Path::new(name)), "{name:?}");
        }
        for name in ["report.pdf", ".hidden", "a b", "\u{202e}gpj.exe"] {
            assert!(is_finished(Path::new(name)), "{name:?}");
        }
    }
}
