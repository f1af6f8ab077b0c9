//! The kernel's file systems, which every guest has whatever its image holds.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

use super::BootError;

/// Where cgroup2 is mounted.
pub(crate) const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// A file system without a disk.
struct Virtual {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: Option<&'static CStr>,
}

/// What the boot itself needs; moved to the new root later.
const EARLY: [Virtual; 3] = [
    Virtual {
        kind: "proc",
        target: "/proc",
        flags: NO_PROGRAMS,
        options: None,
    },
    Virtual {
        kind: "sysfs",
        target: "/sys",
        flags: NO_PROGRAMS,
        options: None,
    },
    Virtual {
        kind: "devtmpfs",
        target: "/dev",
        flags: MountFlags::NOSUID,
        options: Some(c"mode=0755"),
    },
];

/// What commands need. `/tmp` is a plain directory: what fills it should fill the disk, not the
/// guest's memory.
const LATE: [Virtual; 4] = [
    Virtual {
        kind: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        // Group 5 is `tty` in every distribution (Debian base-passwd).
        options: Some(c"gid=5,mode=620,ptmxmode=666"),
    },
    Virtual {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: NO_DEVICES,
        options: Some(c"mode=1777"),
    },
    Virtual {
        kind: "tmpfs",
        target: "/run",
        flags: NO_DEVICES,
        options: Some(c"mode=0755"),
    },
    Virtual {
        kind: "cgroup2",
        target: CGROUP_MOUNT,
        flags: NO_PROGRAMS,
        options: None,
    },
];

const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const NO_PROGRAMS: MountFlags = NO_DEVICES.union(MountFlags::NOEXEC);

/// Links that programs expect in `/dev` and the kernel does not make.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Directories every root has, with their permissions.
const STANDARD_DIRECTORIES: [(&str, u32); 4] = [
    ("/tmp", 0o1777),
    ("/var/tmp", 0o1777),
    ("/root", 0o700),
    ("/etc", 0o755),
];

/// Mounts what the boot needs.
///
/// # Errors
///
/// When one of them cannot be mounted.
pub(crate) fn mount_early() -> Result<(), BootError> {
    EARLY.iter().try_for_each(mount_virtual)
}

/// Mounts the rest, on the new root.
///
/// # Errors
///
/// When one of them cannot be mounted.
pub(crate) fn mount_late() -> Result<(), BootError> {
    LATE.iter().try_for_each(mount_virtual)?;
    for (target, link) in DEVICE_LINKS {
        // It exists when the kernel is newer than it is known to make it.
        let _ = symlink(target, link);
    }
    for (path, mode) in STANDARD_DIRECTORIES {
        // A root that cannot be written to does without them.
        if !Path::new(path).exists() && fs::create_dir_all(path).is_ok() {
            // The directory is there, if with narrower permissions.
            let _ = rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode));
        }
    }
    Ok(())
}

/// Makes a directory and its parents unless it exists.
///
/// # Errors
///
/// When the directory cannot be made.
pub(crate) fn make_directory(path: &Path) -> Result<(), BootError> {
    fs::create_dir_all(path).map_err(|source| BootError::MakeDirectory {
        path: path.to_owned(),
        source,
    })
}

fn mount_virtual(file_system: &Virtual) -> Result<(), BootError> {
    let Virtual {
        kind,
        target,
        flags,
        options,
    } = *file_system;
    make_directory(Path::new(target))?;
    mount(kind, target, kind, flags, options).map_err(|errno| BootError::Mount {
        what: kind,
        target,
        source: errno.into(),
    })
}
