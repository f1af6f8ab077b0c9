//! What is kept of browser sessions beside their sandboxes.
//!
//! ```text
//!   <data_dir>/browser-sessions/.lock              held while records are made or swept
//!   <data_dir>/browser-sessions/<id>/session.json  what its sandbox does not know of a session
//!   <data_dir>/browser-sessions/<id>/...           artifacts and downloads; they stay
//! ```
//!
//! A sandbox is made before its record and goes before it, so a record without a sandbox is that
//! of a session that has ended: [`Records::reap`] removes it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::config::BrowserConfig;
use crate::record::{RecordError, read_json, write_json};
use crate::store::{files_error, remove_if_there};
use crate::{SandboxId, Store, StoreError};

/// Version of the file.
const VERSION: u32 = 1;

/// What a session's sandbox does not know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BrowserRecord {
    pub(super) version: u32,
    pub(super) session_id: SandboxId,
    /// The session's sandbox: of the same name, or that of its profile.
    pub(super) vm_id: SandboxId,
    pub(super) config: BrowserConfig,
    /// When it ends at the latest, in milliseconds since the Unix epoch.
    pub(super) expires_at_unix_ms: u64,
    /// What the live view asks of whoever wants to see it, in hexadecimal digits.
    pub(super) token: String,
    /// Where the browser is reached, once it is ready.
    pub(super) ports: Option<BrowserPorts>,
    /// Why it could not be started.
    pub(super) failure: Option<String>,
}

/// Ports of the host's loopback that lead to a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrowserPorts {
    /// The Chrome DevTools Protocol.
    pub cdp: u16,
    /// The page with the live view.
    pub viewer: Option<u16>,
    /// The live view's VNC server.
    pub vnc: Option<u16>,
}

impl BrowserRecord {
    pub(super) const fn new(
        session_id: SandboxId,
        vm_id: SandboxId,
        config: BrowserConfig,
        expires_at_unix_ms: u64,
        token: String,
    ) -> Self {
        Self {
            version: VERSION,
            session_id,
            vm_id,
            config,
            expires_at_unix_ms,
            token,
            ports: None,
            failure: None,
        }
    }
}

/// The records of one data directory.
#[derive(Clone, Debug)]
pub(super) struct Records {
    root: PathBuf,
    store: Store,
}

impl Records {
    /// Opens the records of `data_dir`, making their directory when missing.
    pub(super) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let root = data_dir.join("browser-sessions");
        make_directory(&root)?;
        Ok(Self {
            root,
            store: Store::open(data_dir)?,
        })
    }

    /// Returns the directory with a session's artifacts and downloads.
    pub(super) fn directory(&self, session_id: &SandboxId) -> PathBuf {
        self.root.join(session_id.as_str())
    }

    fn file(&self, session_id: &SandboxId) -> PathBuf {
        self.directory(session_id).join("session.json")
    }

    /// Makes the directory of a session.
    pub(super) fn make_directory(&self, session_id: &SandboxId) -> Result<(), StoreError> {
        make_directory(&self.directory(session_id))
    }

    /// Writes the record of a new session. Returns whether there was none of its name.
    pub(super) fn add(&self, record: &BrowserRecord) -> Result<bool, StoreError> {
        let _sweeping_excluded = self.lock()?;
        if self.file(&record.session_id).exists() {
            return Ok(false);
        }
        self.write(record)?;
        Ok(true)
    }

    /// Writes the record of a session again.
    pub(super) fn write(&self, record: &BrowserRecord) -> Result<(), StoreError> {
        self.make_directory(&record.session_id)?;
        Ok(write_json(&self.file(&record.session_id), record)?)
    }

    /// Returns the record of a session, if there is one.
    pub(super) fn read(&self, session_id: &SandboxId) -> Result<Option<BrowserRecord>, StoreError> {
        let path = self.file(session_id);
        match read_json::<BrowserRecord>(&path) {
            Ok(record) if record.version == VERSION => Ok(Some(record)),
            Ok(record) => Err(RecordError::Version {
                path,
                found: record.version,
            }
            .into()),
            Err(RecordError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns all records, by name. One that is damaged is left out and logged.
    pub(super) fn list(&self) -> Result<Vec<BrowserRecord>, StoreError> {
        let entries =
            fs::read_dir(&self.root).map_err(|source| files_error("read", &self.root, source))?;
        let mut records = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Ok(session_id) = name.parse::<SandboxId>() else {
                continue;
            };
            match self.read(&session_id) {
                Ok(record) => records.extend(record),
                Err(error) => {
                    tracing::warn!(session = %session_id, %error, "browser session left out");
                }
            }
        }
        records.sort_by(|a, b| a.session_id.cmp(&b.session_id));
        Ok(records)
    }

    /// Removes the record of a session; what else is in its directory stays.
    pub(super) fn remove(&self, session_id: &SandboxId) {
        remove_if_there(&self.file(session_id));
        self.forget(session_id);
    }

    /// Removes the directory of a session where nothing is in it.
    pub(super) fn forget(&self, session_id: &SandboxId) {
        // Fails where artifacts or downloads are, which stay.
        let _has_files = fs::remove_dir(self.directory(session_id).join("downloads"));
        let _has_files = fs::remove_dir(self.directory(session_id));
    }

    /// Removes what dead processes have left, and the records of sessions that have ended.
    pub(super) fn reap(&self) -> Result<(), StoreError> {
        self.store.reap()?;
        let _adding_excluded = self.lock()?;
        for record in self.list()? {
            let sandbox = self.store.info(&record.vm_id);
            if matches!(sandbox, Err(StoreError::NotFound { .. })) {
                tracing::debug!(session = %record.session_id, "browser session had ended");
                self.remove(&record.session_id);
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<File, StoreError> {
        let path = self.root.join(".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| files_error("open", &path, source))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| files_error("lock", &path, error.into()))?;
        Ok(file)
    }
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| files_error("create", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::config::AskedBrowser;

    fn records() -> (tempfile::TempDir, Records) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(directory.path()).expect("records");
        (directory, records)
    }

    fn record(name: &str) -> BrowserRecord {
        let config = BrowserConfig::new(&AskedBrowser::default()).expect("legal");
        let id: SandboxId = name.parse().expect("legal");
        BrowserRecord::new(id.clone(), id, config, 1, "00ff".to_owned())
    }

    #[test]
    fn record_survives_the_disk_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let (_guard, records) = records();
        let record = record("one");
        assert!(records.add(&record).expect("written"));
        assert_eq!(records.list().expect("read"), std::slice::from_ref(&record));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&records.file(&record.session_id)), 0o600);
        assert_eq!(mode(&records.directory(&record.session_id)), 0o700);
    }

    #[test]
    fn second_session_of_a_name_is_not_added() {
        let (_guard, records) = records();
        assert!(records.add(&record("one")).expect("written"));
        assert!(!records.add(&record("one")).expect("looked"));
    }

    #[test]
    fn session_without_a_sandbox_is_reaped_and_its_artifacts_stay() {
        let (_guard, records) = records();
        let (bare, full) = (record("bare"), record("full"));
        records.add(&bare).expect("written");
        records.add(&full).expect("written");
        let artifact = records
            .directory(&full.session_id)
            .join("guest-artifacts.tar.gz");
        fs::write(&artifact, b"video").expect("written");
        records.reap().expect("reaped");
        assert_eq!(records.list().expect("read"), []);
        assert!(artifact.exists());
        assert!(!records.directory(&bare.session_id).exists());
    }

    #[test]
    fn damaged_record_is_left_out_of_the_list() {
        let (_guard, records) = records();
        records.add(&record("one")).expect("written");
        fs::write(records.file(&"one".parse().expect("legal")), b"{").expect("written");
        assert_eq!(records.list().expect("listed"), []);
    }
}
