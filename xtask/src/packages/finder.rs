//! Finds programs by looking for their files, which takes microseconds; nothing is run.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where administrators' programs are, which an ordinary user's PATH may lack (FHS 3.0 §3.16,
/// §4.10).
const SYSTEM_DIRECTORIES: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin"];

const ANY_EXECUTE_BIT: u32 = 0o111;

/// Looks for programs in the directories of one host.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    root: PathBuf,
    directories: Vec<PathBuf>,
}

impl Finder {
    /// Looks on this host, in the directories of PATH and the system's own.
    pub(super) fn of_host() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        Self::new(Path::new("/"), env::split_paths(&path))
    }

    /// Looks on the host whose file system begins at `root`, in the directories `path` and the
    /// system's own, which are absolute on that host.
    pub(super) fn new(root: &Path, path: impl IntoIterator<Item = PathBuf>) -> Self {
        let system = SYSTEM_DIRECTORIES.iter().map(PathBuf::from);
        let directories = path.into_iter().chain(system).collect();
        Self {
            root: root.to_owned(),
            directories,
        }
    }

    /// Tells whether the host has a program of this name, or something at this absolute path, in
    /// which one `*` stands for any one name.
    pub(super) fn has(&self, name: &str) -> bool {
        let Some(path) = name.strip_prefix('/') else {
            return self.has_program(name);
        };
        match path.split_once("*/") {
            None => self.root.join(path).exists(),
            Some((above, below)) => fs::read_dir(self.root.join(above)).is_ok_and(|entries| {
                entries
                    .flatten()
                    .any(|entry| entry.path().join(below).exists())
            }),
        }
    }

    /// Tells whether the host has an executable file of this name.
    pub(super) fn has_program(&self, name: &str) -> bool {
        self.directories.iter().any(|directory| {
            let relative = directory.strip_prefix("/").unwrap_or(directory);
            let file = self.root.join(relative).join(name);
            fs::metadata(file).is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & ANY_EXECUTE_BIT != 0
            })
        })
    }
}

/// A directory that looks like the root of a host; removed in the end.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct FakeHost {
    root: PathBuf,
}

#[cfg(test)]
impl FakeHost {
    /// Makes a host with these executable files. `name` is unique among the tests.
    pub(super) fn new(name: &str, programs: &[&str]) -> Self {
        let root = env::temp_dir().join(format!("xtask-host-{}-{name}", std::process::id()));
        fs::create_dir(&root).expect("the name is not taken");
        let host = Self { root };
        for program in programs {
            host.add_file(program, 0o755);
        }
        host
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn finder(&self) -> Finder {
        Finder::new(&self.root, [PathBuf::from("/usr/bin")])
    }

    pub(super) fn add_file(&self, path: &str, mode: u32) {
        let file = self.root.join(path);
        fs::create_dir_all(file.parent().expect("the path has a directory"))
            .expect("the temporary directory is writable");
        fs::write(&file, "").expect("the temporary directory is writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("the file is ours");
    }
}

#[cfg(test)]
impl Drop for FakeHost {
    fn drop(&mut self) {
        // A directory left in the system's temporary files is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.root);
    }
}
