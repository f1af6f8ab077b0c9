//! Namespaces of a VMM's own, entered where the host allows it (namespaces(7)):
//!
//! ```text
//!   user      where root does not start it: what it is there, it is not on the host
//!   network   no interface but a loopback that is down, no abstract socket
//!   ipc, uts  no shared memory, no queue, no host name of the host's
//!   mount     a root of its own that has its files and nothing else, and sees no later mount
//! ```
//!
//! Root enters no user namespace: it could name only itself there, and would lose the right to
//! files of others that it is told to use. Hosts that forbid unprivileged user namespaces go on
//! without: what these keep away, the other layers forbid. There is no process namespace: it is for
//! the children of who makes it, and a VMM has none; signals to others are Landlock's.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::sys;

/// Where the new root is put together: a directory of every host, of which a VMM has no use.
const WORKSHOP: &str = "/proc";

/// Which namespaces of its own a VMM has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespaces {
    /// A user namespace; root has none.
    pub has_user: bool,
    /// Those of the network, of mounts, of IPC and of the host's name.
    pub has_network: bool,
    /// A root directory with nothing but its own files.
    pub has_root: bool,
}

/// Enters namespaces of this process's own, as far as the host allows it. Of `files`, those that
/// exist are in the new root, under the same paths.
///
/// Preconditions: the process has one thread.
#[must_use]
pub(super) fn enter<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Namespaces {
    let is_root = rustix::process::geteuid().is_root();
    let mut flags =
        UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !is_root {
        flags |= UnshareFlags::NEWUSER;
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if sys::unshare(flags).is_err() {
        return Namespaces::default();
    }
    if !is_root {
        // Without names for its user, everything works as well: files know it by its number.
        let _unnamed = name_user(uid.as_raw(), gid.as_raw());
    }
    Namespaces {
        has_user: !is_root,
        has_network: true,
        has_root: change_root(files).is_ok(),
    }
}

/// Gives the user of a new user namespace the numbers that it has outside (user_namespaces(7)): so
/// it is not root there, and has no capability once it has become another program.
fn name_user(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Changes the root to one that has `files` only. When that fails, the old one is still there.
fn change_root<'a>(files: impl Iterator<Item = &'a PathBuf>) -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    // Taken first: the workshop hides what is below it.
    let existing = files.filter(|path| path.exists());
    let taken: Result<Vec<_>, io::Error> = existing.map(|path| Taken::new(path)).collect();
    let taken = taken?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", WORKSHOP, "tmpfs", flags, None)?;
    let changed = taken
        .iter()
        .try_for_each(|taken| taken.put_below(Path::new(WORKSHOP)))
        .and_then(|()| {
            rustix::process::chdir(WORKSHOP)?;
            // The old root comes to lie on the new one (pivot_root(2), "pivot_root(".", ".")").
            rustix::process::pivot_root(".", ".")?;
            unmount(".", UnmountFlags::DETACH)?;
            Ok(rustix::process::chdir("/")?)
        });
    if changed.is_err() {
        let _still_hidden = unmount(WORKSHOP, UnmountFlags::DETACH);
    }
    changed
}

/// A file or a tree of files on its way into the new root.
struct Taken<'a> {
    path: &'a Path,
    is_directory: bool,
    tree: rustix::fd::OwnedFd,
}

impl<'a> Taken<'a> {
    fn new(path: &'a Path) -> io::Result<Self> {
        let is_plain =
            |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || !path.components().all(is_plain) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // With what is mounted below: without it, what that hides would be seen.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        Ok(Self {
            path,
            is_directory: path.is_dir(),
            tree: open_tree(CWD, path, flags)?,
        })
    }

    fn put_below(&self, root: &Path) -> io::Result<()> {
        let relative = self.path.strip_prefix("/").unwrap_or(self.path);
        let place = root.join(relative);
        if !place.exists() {
            if self.is_directory {
                fs::create_dir_all(&place)?;
            } else {
                fs::create_dir_all(place.parent().unwrap_or(root))?;
                File::create(&place)?;
            }
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&self.tree, "", CWD, &place, flags)?)
    }
}
