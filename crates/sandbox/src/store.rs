//! The sandboxes of one data directory.
//!
//! ```text
//!   <data_dir>/sandboxes/.lock            held while a name is being made or swept
//!   <data_dir>/sandboxes/<id>/lock        held by whoever changes the sandbox: its supervisor
//!   <data_dir>/sandboxes/<id>/owner       held by the creator of a leased sandbox
//!   <data_dir>/sandboxes/<id>/spec.json   what was asked for
//!   <data_dir>/sandboxes/<id>/state.json  where it is in its life
//!   <data_dir>/sandboxes/<id>/...         overlay, plan, logs, socket
//!   <data_dir>/kept-disks/<id>.img       disk of a deleted sandbox, for the next of its name
//!   <data_dir>/sandboxes/.new-RANDOM/     being created; takes its name by rename
//!   <data_dir>/sandboxes/.gone-RANDOM/    being deleted; gave up its name by rename
//! ```
//!
//! Liveness is the lock and nothing else (flock(2)): it belongs to the open file, passes from
//! the creating process to the supervisor by inheritance, and the kernel gives it back when the
//! last of them dies. What nobody holds and nobody should keep, [`Store::reap`] removes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, RenameFlags, flock, renameat_with};

use crate::record::{RecordError, SandboxDir, StateFile, used_bytes};
use crate::state::{SandboxState, Transition};
use crate::{ErrorKind, Lifetime, SandboxId, SandboxSpec, bounded_log};

/// How long to wait for a lock that another command holds for a moment.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No sandbox has this name.
    #[error("sandbox '{id}' not found")]
    NotFound {
        /// The name.
        id: SandboxId,
    },
    /// A sandbox has this name already.
    #[error("sandbox '{id}' already exists")]
    NameTaken {
        /// The name.
        id: SandboxId,
    },
    /// Another process owns the sandbox.
    #[error("sandbox '{id}' is in use by another process")]
    Busy {
        /// The name.
        id: SandboxId,
    },
    /// A file or directory of the store cannot be used.
    #[error("{action} {}", path.display())]
    Files {
        /// What was attempted, such as `create`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A sandbox's description is unusable.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl StoreError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NameTaken { .. } | Self::Busy { .. } => ErrorKind::Conflict,
            Self::Files { .. } => ErrorKind::Host,
            Self::Record(error) => error.kind(),
        }
    }
}

/// What the store knows of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxInfo {
    /// What was asked for.
    pub spec: SandboxSpec,
    /// Where it is in its life.
    pub state: SandboxState,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Why it is in this state, where that is not plain.
    pub reason: Option<String>,
    /// The engine it runs or ran on.
    pub engine: Option<String>,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_unix_ms: u64,
    /// Bytes its files use on the host.
    pub disk_used_bytes: u64,
    /// The directory with its files.
    pub directory: PathBuf,
}

impl SandboxInfo {
    /// Returns the files that hold what the guest's console said since the machine's last start,
    /// oldest first. Neither need exist; when the newer one is full, it becomes the older one.
    #[must_use]
    pub fn console_logs(&self) -> [PathBuf; 2] {
        let newer = SandboxDir::new(self.directory.clone()).console_log();
        [bounded_log::before(&newer), newer]
    }

    /// Returns the files that hold what happened on the sandbox's network as JSON lines, each a
    /// [`NetworkRecord`](crate::NetworkRecord), as [`Self::console_logs`] does for the console.
    #[must_use]
    pub fn network_logs(&self) -> [PathBuf; 2] {
        let newer = SandboxDir::new(self.directory.clone()).network_log();
        [bounded_log::before(&newer), newer]
    }

    /// Returns the files that hold what the supervisors had to say, as [`Self::console_logs`] does
    /// for the console.
    #[must_use]
    pub fn supervisor_logs(&self) -> [PathBuf; 2] {
        let newer = SandboxDir::new(self.directory.clone()).supervisor_log();
        [bounded_log::before(&newer), newer]
    }
}

/// What [`Store::reap`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Names of sandboxes whose owner had died, and which were removed.
    pub removed: Vec<String>,
    /// Names of kept sandboxes whose supervisor had died, and which are now in state `error`.
    pub failed: Vec<String>,
    /// Remains of interrupted creations and deletions that were removed.
    pub remains: usize,
}

/// The exclusive right to change one sandbox's files.
///
/// Ends when every copy of the open file is closed: a supervisor inherits it.
#[derive(Debug)]
pub(crate) struct SandboxLock {
    file: File,
    directory: SandboxDir,
}

impl SandboxLock {
    pub(crate) const fn directory(&self) -> &SandboxDir {
        &self.directory
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Takes over a lock that this process has inherited.
    pub(crate) const fn inherited(file: File, directory: SandboxDir) -> Self {
        Self { file, directory }
    }
}

/// The mark of a leased sandbox's creator: while it is held, nobody takes the sandbox for left
/// behind, whether it runs or not. Ends with the process, or when it lets go.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    _file: File,
}

/// The sandboxes of one data directory. Cheap to make; holds no state but the path.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store of `data_dir`, making its directories when missing.
    ///
    /// # Errors
    ///
    /// When the directories cannot be made.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let root = data_dir.join("sandboxes");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(|source| files_error("create", &root, source))?;
        Ok(Self { root })
    }

    /// Opens the store that holds the sandbox in `directory`.
    ///
    /// # Errors
    ///
    /// When `directory` has no parent or that cannot be used.
    pub(crate) fn containing(directory: &Path) -> Result<Self, StoreError> {
        let root = directory
            .parent()
            .ok_or_else(|| files_error("open", directory, io::ErrorKind::NotFound.into()))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Returns all sandboxes, by name. One whose description is damaged is left out of the list
    /// and logged.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<SandboxInfo>, StoreError> {
        let mut sandboxes = Vec::new();
        for name in self.entry_names()? {
            let Ok(id) = name.parse::<SandboxId>() else {
                continue;
            };
            match self.info(&id) {
                Ok(info) => sandboxes.push(info),
                // Deleted between the two looks.
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => tracing::warn!(sandbox = %id, %error, "sandbox left out of the list"),
            }
        }
        sandboxes.sort_by(|a, b| a.spec.id.cmp(&b.spec.id));
        Ok(sandboxes)
    }

    /// Returns what is known of the sandbox `id`.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], or a description that cannot be read.
    pub fn info(&self, id: &SandboxId) -> Result<SandboxInfo, StoreError> {
        let directory = self.existing(id)?;
        let describe = || -> Result<SandboxInfo, RecordError> {
            let (spec, created_unix_ms) = directory.read_spec()?;
            let state = directory.read_state()?;
            Ok(SandboxInfo {
                spec,
                state: state.state,
                since_unix_ms: state.since_unix_ms,
                reason: state.reason,
                engine: state.engine,
                created_unix_ms,
                disk_used_bytes: used_bytes(directory.path()),
                directory: directory.path().to_owned(),
            })
        };
        describe().map_err(|error| {
            // A sandbox that went away while it was read is not a damaged one.
            if directory.path().is_dir() {
                error.into()
            } else {
                StoreError::NotFound { id: id.clone() }
            }
        })
    }

    /// Makes the directory of a new sandbox. `prepare` fills it before the name becomes visible.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameTaken`], or whatever `prepare` says; nothing is left behind.
    pub(crate) fn create<E: From<StoreError>>(
        &self,
        spec: &SandboxSpec,
        prepare: impl FnOnce(&SandboxDir) -> Result<(), E>,
    ) -> Result<(SandboxLock, Option<OwnerLock>), E> {
        if self.existing(&spec.id).is_ok() {
            return Err(StoreError::NameTaken {
                id: spec.id.clone(),
            }
            .into());
        }
        let unnamed = self.new_directory()?;
        let outcome = prepare(&unnamed.directory).and_then(|()| {
            let owner = mark_owner(spec.lifetime, &unnamed.directory)?;
            let directory = self.fill_and_publish(spec, &unnamed.directory)?;
            Ok((directory, owner))
        });
        match outcome {
            Ok((directory, owner)) => {
                let file = unnamed.file;
                Ok((SandboxLock { file, directory }, owner))
            }
            Err(error) => {
                remove_tree(unnamed.directory.path());
                Err(error)
            }
        }
    }

    fn fill_and_publish(
        &self,
        spec: &SandboxSpec,
        unnamed: &SandboxDir,
    ) -> Result<SandboxDir, StoreError> {
        unnamed.write_spec(spec)?;
        unnamed.write_state(&StateFile::created())?;
        let path = self.root.join(spec.id.as_str());
        let cwd = rustix::fs::CWD;
        match renameat_with(cwd, unnamed.path(), cwd, &path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(SandboxDir::new(path)),
            Err(rustix::io::Errno::EXIST) => Err(StoreError::NameTaken {
                id: spec.id.clone(),
            }),
            Err(error) => Err(files_error("name", &path, error.into())),
        }
    }

    fn new_directory(&self) -> Result<SandboxLock, StoreError> {
        let _sweeping_excluded = self.lock_names()?;
        let path = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&self.root)
            .map_err(|source| files_error("create a directory in", &self.root, source))?
            .keep();
        let directory = SandboxDir::new(path);
        let file = open_lock(&directory.lock())?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| files_error("lock", &directory.lock(), error.into()))?;
        Ok(SandboxLock { file, directory })
    }

    /// Takes the lock of the sandbox `id`, waiting a moment for a command that only looks.
    pub(crate) fn lock(&self, id: &SandboxId) -> Result<SandboxLock, StoreError> {
        self.lock_within(id, LOCK_PATIENCE)
    }

    /// Returns what is known of the sandbox `id` once whoever ends it has recorded the end; what
    /// is known by then when that takes longer than `patience`.
    pub(crate) fn info_after_end(
        &self,
        id: &SandboxId,
        patience: Duration,
    ) -> Result<SandboxInfo, StoreError> {
        // The supervisor gives the lock back once it has recorded the end.
        let lock = self.lock_within(id, patience);
        let info = self.info(id)?;
        match lock {
            Err(StoreError::Busy { .. }) if info.state == SandboxState::Stopping => Ok(info),
            Ok(_) => Ok(info),
            Err(error) => Err(error),
        }
    }

    fn lock_within(&self, id: &SandboxId, patience: Duration) -> Result<SandboxLock, StoreError> {
        let directory = self.existing(id)?;
        let path = directory.lock();
        let file = open_lock(&path)?;
        let deadline = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    // flock(2) has no timeout and no way to be told; whoever holds the lock for
                    // good answers on its socket, so this is only for commands that look.
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(StoreError::Busy { id: id.clone() });
                }
                Err(error) => return Err(files_error("lock", &path, error.into())),
            }
        }
        // The directory may have been deleted, and its name taken anew, while we waited.
        if is_same_file(&file, &path) {
            Ok(SandboxLock { file, directory })
        } else {
            Err(StoreError::NotFound { id: id.clone() })
        }
    }

    /// Removes a sandbox's files: the name is free at once, then the files go.
    pub(crate) fn remove(&self, lock: SandboxLock) -> Result<(), StoreError> {
        self.keep_disk(&lock)?;
        let path = lock.directory.path();
        let gone = tempfile::Builder::new()
            .prefix(".gone-")
            .make_in(&self.root, |gone| {
                renameat_with(
                    rustix::fs::CWD,
                    path,
                    rustix::fs::CWD,
                    gone,
                    RenameFlags::NOREPLACE,
                )
                .map_err(io::Error::from)
            })
            .map_err(|source| files_error("remove", path, source))?;
        let (_, gone) = gone
            .keep()
            .map_err(|error| files_error("remove", path, error.error))?;
        remove_tree(&gone);
        drop(lock);
        Ok(())
    }

    /// Returns where the disk of the sandbox `id` is, or will be, once the sandbox is deleted.
    pub(crate) fn kept_disk(&self, id: &SandboxId) -> PathBuf {
        let data_dir = self.root.parent().unwrap_or(&self.root);
        data_dir.join("kept-disks").join(format!("{id}.img"))
    }

    /// Removes the kept disk of the sandbox `id` if the new sandbox in `directory` has it now.
    pub(crate) fn forget_kept_disk(&self, id: &SandboxId, directory: &SandboxDir) {
        let kept = self.kept_disk(id);
        if File::open(directory.overlay()).is_ok_and(|overlay| is_same_file(&overlay, &kept)) {
            // Where it stays, it is the same file as the sandbox's disk, and is kept once more.
            let _taken = fs::remove_file(kept);
        }
    }

    /// Moves the disk of a sandbox that keeps it out of its directory. A sandbox whose description
    /// is damaged keeps nothing: it can only be removed.
    fn keep_disk(&self, lock: &SandboxLock) -> Result<(), StoreError> {
        let overlay = lock.directory.overlay();
        let spec = match lock.directory.read_spec() {
            Ok((spec, _)) if spec.keeps_disk => spec,
            _ => return Ok(()),
        };
        let kept = self.kept_disk(&spec.id);
        let parent = kept.parent().unwrap_or(&self.root);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|source| files_error("create", parent, source))?;
        match fs::rename(&overlay, &kept) {
            Ok(()) => Ok(()),
            // A shared root leaves no disk, and a deletion that was cut off has moved it already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(files_error("keep", &overlay, source)),
        }
    }

    /// Returns the files of the sandbox `id`.
    pub(crate) fn existing(&self, id: &SandboxId) -> Result<SandboxDir, StoreError> {
        let path = self.root.join(id.as_str());
        if path.is_dir() {
            Ok(SandboxDir::new(path))
        } else {
            Err(StoreError::NotFound { id: id.clone() })
        }
    }

    /// Removes what dead processes have left: half-made and half-deleted sandboxes, and leased
    /// sandboxes without an owner. A kept sandbox whose supervisor died goes to state `error`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read; what cannot be removed is logged and left.
    pub fn reap(&self) -> Result<Reaped, StoreError> {
        self.sweep(true)
    }

    /// Returns what [`Store::reap`] would do now, and does nothing.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn reapable(&self) -> Result<Reaped, StoreError> {
        self.sweep(false)
    }

    fn sweep(&self, is_reaping: bool) -> Result<Reaped, StoreError> {
        let mut reaped = Reaped::default();
        let names = self.entry_names()?;
        if names.iter().any(|name| is_remains(name)) {
            let _creation_excluded = self.lock_names()?;
            for name in self.entry_names()?.iter().filter(|name| is_remains(name)) {
                let directory = SandboxDir::new(self.root.join(name));
                if is_free(&directory.lock()) {
                    if is_reaping {
                        remove_tree(directory.path());
                    }
                    reaped.remains += 1;
                }
            }
        }
        for id in names
            .iter()
            .filter_map(|name| name.parse::<SandboxId>().ok())
        {
            if let Err(error) = self.sweep_one(&id, is_reaping, &mut reaped) {
                tracing::warn!(sandbox = %id, %error, "sandbox could not be reaped");
            }
        }
        Ok(reaped)
    }

    fn sweep_one(
        &self,
        id: &SandboxId,
        is_reaping: bool,
        reaped: &mut Reaped,
    ) -> Result<(), StoreError> {
        let directory = match self.existing(id) {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        let (spec, _) = directory.read_spec()?;
        let is_active = directory.read_state()?.state.is_active();
        let is_orphan = spec.lifetime == Lifetime::Leased && is_free(&directory.owner());
        if !(is_active || is_orphan) || !is_free(&directory.lock()) {
            return Ok(());
        }
        if is_reaping && !self.reap_one(id, is_orphan)? {
            return Ok(());
        }
        if is_orphan {
            reaped.removed.push(id.to_string());
        } else {
            reaped.failed.push(id.to_string());
        }
        Ok(())
    }

    /// Deals with a sandbox whose supervisor seems dead. Returns whether it still was.
    fn reap_one(&self, id: &SandboxId, is_orphan: bool) -> Result<bool, StoreError> {
        let lock = match self.lock(id) {
            Err(StoreError::NotFound { .. } | StoreError::Busy { .. }) => return Ok(false),
            lock => lock?,
        };
        if is_orphan {
            self.remove(lock)?;
            return Ok(true);
        }
        let state = lock.directory.read_state()?;
        if !state.state.is_active() {
            return Ok(false);
        }
        let failed = state.after(Transition::Fail, Some("its supervisor died"))?;
        lock.directory.write_state(&failed)?;
        remove_if_there(&lock.directory.socket());
        remove_if_there(&lock.directory.peers_socket());
        Ok(true)
    }

    fn entry_names(&self) -> Result<Vec<String>, StoreError> {
        let entries =
            fs::read_dir(&self.root).map_err(|source| files_error("read", &self.root, source))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }

    /// Excludes other processes from making and sweeping unnamed directories.
    fn lock_names(&self) -> Result<File, StoreError> {
        let path = self.root.join(".lock");
        let file = open_lock(&path)?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| files_error("lock", &path, error.into()))?;
        Ok(file)
    }
}

fn is_remains(name: &str) -> bool {
    name.starts_with(".new-") || name.starts_with(".gone-")
}

/// Marks this process as the creator of a leased sandbox.
fn mark_owner(lifetime: Lifetime, directory: &SandboxDir) -> Result<Option<OwnerLock>, StoreError> {
    if lifetime != Lifetime::Leased {
        return Ok(None);
    }
    let path = directory.owner();
    let file = open_lock(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| files_error("lock", &path, error.into()))?;
    Ok(Some(OwnerLock { _file: file }))
}

/// Returns whether nobody holds the lock `path`. Looks with a shared lock, so that two commands
/// that look do not take each other for the holder.
fn is_free(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| files_error("open", path, source))
}

fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn remove_tree(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "directory could not be removed");
    }
}

pub(crate) fn remove_if_there(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "file could not be removed");
    }
}

pub(crate) fn files_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Files {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(directory.path()).expect("store");
        (directory, store)
    }

    fn spec(name: &str, lifetime: Lifetime) -> SandboxSpec {
        SandboxSpec::new(name.parse().expect("legal name"), lifetime)
    }

    fn create(
        store: &Store,
        spec: &SandboxSpec,
    ) -> Result<(SandboxLock, Option<OwnerLock>), StoreError> {
        store.create(spec, |_| Ok::<(), StoreError>(()))
    }

    #[test]
    fn second_sandbox_of_a_name_is_refused() {
        let (_guard, store) = store();
        let spec = spec("one", Lifetime::Persistent);
        let _first = create(&store, &spec).expect("free name");
        assert!(matches!(
            create(&store, &spec),
            Err(StoreError::NameTaken { .. })
        ));
    }

    #[test]
    fn failed_preparation_leaves_nothing() {
        let (guard, store) = store();
        let outcome = store.create(&spec("one", Lifetime::Persistent), |directory| {
            fs::write(directory.overlay(), b"half").expect("write");
            let path = directory.overlay();
            Err(files_error(
                "copy",
                &path,
                io::ErrorKind::StorageFull.into(),
            ))
        });
        assert!(matches!(
            outcome,
            Err(StoreError::Files { action: "copy", .. })
        ));
        let left: Vec<_> = fs::read_dir(guard.path().join("sandboxes"))
            .expect("read")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(left, [".lock"]);
    }

    #[test]
    fn leased_sandbox_goes_when_its_owner_has_gone() {
        let (_guard, store) = store();
        let (lock, owner) = create(&store, &spec("one", Lifetime::Leased)).expect("create");
        drop(lock);
        assert_eq!(
            store.reap().expect("reap"),
            Reaped::default(),
            "still owned, though nothing runs"
        );
        drop(owner);
        assert_eq!(store.reap().expect("reap").removed, ["one"]);
        assert!(store.list().expect("list").is_empty());
    }

    #[test]
    fn kept_sandbox_without_supervisor_goes_to_error_and_says_why() {
        let (_guard, store) = store();
        let id: SandboxId = "one".parse().expect("legal");
        let (lock, _) = create(&store, &spec("one", Lifetime::Persistent)).expect("create");
        let starting = StateFile::created()
            .after(Transition::Start, None)
            .expect("legal");
        lock.directory().write_state(&starting).expect("write");
        drop(lock);

        assert_eq!(store.reap().expect("reap").failed, ["one"]);
        let info = store.info(&id).expect("kept");
        assert_eq!(info.state, SandboxState::Error);
        assert_eq!(info.reason.as_deref(), Some("its supervisor died"));
    }

    #[test]
    fn remains_of_killed_commands_are_swept_but_not_those_of_living_ones() {
        let (guard, store) = store();
        let living = store.new_directory().expect("directory");
        let dead = store.new_directory().expect("directory");
        drop(dead.file);
        assert_eq!(store.reap().expect("reap").remains, 1);
        assert!(living.directory.path().is_dir());
        drop(living.file);
        assert_eq!(store.reap().expect("reap").remains, 1);
        assert_eq!(
            fs::read_dir(guard.path().join("sandboxes"))
                .expect("read")
                .count(),
            1
        );
    }

    #[test]
    fn removed_sandbox_frees_its_name_and_leaves_no_file() {
        let (guard, store) = store();
        let spec = spec("one", Lifetime::Persistent);
        let (lock, _) = create(&store, &spec).expect("create");
        store.remove(lock).expect("remove");
        assert_eq!(
            fs::read_dir(guard.path().join("sandboxes"))
                .expect("read")
                .count(),
            1
        );
        create(&store, &spec).expect("name is free again");
    }

    #[test]
    fn lock_of_an_owned_sandbox_is_refused_as_busy() {
        let (_guard, store) = store();
        let (lock, _) = create(&store, &spec("one", Lifetime::Persistent)).expect("create");
        let id: SandboxId = "one".parse().expect("legal");
        assert!(matches!(store.lock(&id), Err(StoreError::Busy { .. })));
        drop(lock);
        store.lock(&id).expect("free");
    }

    #[test]
    fn end_that_takes_long_to_be_recorded_is_known_before() {
        let (_guard, store) = store();
        let (lock, _) = create(&store, &spec("one", Lifetime::Persistent)).expect("create");
        let id: SandboxId = "one".parse().expect("legal");
        let mut state = lock.directory.read_state().expect("state");
        for transition in [Transition::Start, Transition::Ready, Transition::Stop] {
            assert!(
                matches!(
                    store.info_after_end(&id, Duration::ZERO),
                    Err(StoreError::Busy { .. })
                ),
                "nobody has said that it ends"
            );
            state = state.after(transition, None).expect("legal");
            lock.directory.write_state(&state).expect("write");
        }
        let info = store.info_after_end(&id, Duration::ZERO).expect("known");
        assert_eq!(info.state, SandboxState::Stopping);
    }
}
