//! Joins the read-only root image and the writable overlay disk, and makes the result the root.
//! Where the root is shared, the root image itself is the root, and is written to.
//!
//! ```text
//!   /smolvm/image     root image, read-only            lower
//!   /smolvm/overlay   overlay disk: upper/, work/      upper, work
//!   /smolvm/root      overlayfs of both       ------>  /
//!
//!   smolvm.root=shared:
//!   /smolvm/root      root image, read-write  ------>  /
//! ```
//!
//! All start in the initramfs. After the switch only the joined root is visible; the
//! overlay disk stays reachable for the shutdown through an open directory.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_move};
use smolvm_protocol::{MODULE_DIRECTORY, ROOT_PARAMETER, ROOT_SHARED};

use super::BootError;
use super::disks::Disks;
use super::mounts::make_directory;

const IMAGE: &str = "/smolvm/image";
const OVERLAY: &str = "/smolvm/overlay";
const NEW_ROOT: &str = "/smolvm/root";

/// Directories of the overlay disk (Linux Documentation/filesystems/overlayfs.rst).
const UPPER: &str = "/smolvm/overlay/upper";
const WORK: &str = "/smolvm/overlay/work";

/// With `redirect_dir` a directory of the image can be renamed like any other; without it, that
/// fails with EXDEV (Linux Documentation/filesystems/overlayfs.rst, "renaming directories").
const OVERLAY_OPTIONS: &std::ffi::CStr = c"redirect_dir=on,lowerdir=/smolvm/image,\
upperdir=/smolvm/overlay/upper,workdir=/smolvm/overlay/work";

/// Where the magic number of each file system stands: squashfs (fs/squashfs/squashfs_fs.h),
/// erofs (fs/erofs/erofs_fs.h) and ext4 (fs/ext4/ext4.h), with the superblocks of the latter two
/// at 1024 bytes.
const ROOT_FILE_SYSTEMS: [(&str, usize, &[u8]); 3] = [
    ("squashfs", 0, b"hsqs"),
    ("erofs", 1024, &0xe0f5_e1e2_u32.to_le_bytes()),
    ("ext4", 1024 + 56, &0xef53_u16.to_le_bytes()),
];

/// Bytes from the start of a disk that hold every magic number.
const MAGIC_BYTES: usize = 1024 + 58;

/// The root once it is switched to.
#[derive(Debug)]
pub(crate) struct Root {
    /// The top directory of the overlay disk, where there is one.
    pub(crate) overlay_disk: Option<OwnedFd>,
    /// Whether the root is the guest's alone and nothing had been written to it before.
    pub(crate) is_new: bool,
}

impl Root {
    /// Mounts the disks and switches to the root they make.
    ///
    /// # Errors
    ///
    /// The first step that fails.
    pub(crate) fn switch_to(disks: &Disks) -> Result<Self, BootError> {
        let root = match &disks.overlay {
            Some(overlay) => Self::join(&disks.root, overlay)?,
            None => Self::share(&disks.root)?,
        };
        move_virtual_file_systems()?;
        free_initramfs();
        enter_new_root()?;
        Ok(root)
    }

    /// Mounts the overlay disk over the root image.
    fn join(image: &Path, overlay: &Path) -> Result<Self, BootError> {
        mount_image(image, IMAGE, MountFlags::RDONLY)?;
        let is_new = mount_overlay_disk(overlay)?;
        let overlay_disk = open_directory(OVERLAY)?;
        make_directory(Path::new(NEW_ROOT))?;
        mount(
            "overlay",
            NEW_ROOT,
            "overlay",
            MountFlags::NOATIME,
            OVERLAY_OPTIONS,
        )
        .map_err(|errno| BootError::Mount {
            what: "overlay",
            target: NEW_ROOT,
            source: errno.into(),
        })?;
        Ok(Self {
            overlay_disk: Some(overlay_disk),
            is_new,
        })
    }

    /// Mounts the root image as the root itself. It belongs to the user, so nothing is written
    /// to it unasked.
    fn share(image: &Path) -> Result<Self, BootError> {
        mount_image(image, NEW_ROOT, MountFlags::empty())?;
        Ok(Self {
            overlay_disk: None,
            is_new: false,
        })
    }
}

/// Returns whether the kernel's command line asks for a shared root.
pub(crate) fn is_shared(command_line: &str) -> bool {
    command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(ROOT_PARAMETER)?.strip_prefix('='))
        .next_back()
        == Some(ROOT_SHARED)
}

fn mount_image(disk: &Path, target: &'static str, flags: MountFlags) -> Result<(), BootError> {
    let kind = root_file_system(disk)?;
    make_directory(Path::new(target))?;
    mount(disk, target, kind, flags | MountFlags::NOATIME, None).map_err(|errno| BootError::Mount {
        what: kind,
        target,
        source: errno.into(),
    })
}

fn root_file_system(disk: &Path) -> Result<&'static str, BootError> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    let read = |start: &mut Vec<u8>| -> io::Result<usize> {
        let mut file = File::open(disk)?;
        file.seek(SeekFrom::Start(0))?;
        file.take(MAGIC_BYTES as u64).read_to_end(start)
    };
    read(&mut start).map_err(|source| BootError::ReadDisk {
        path: disk.to_owned(),
        source,
    })?;
    recognise(&start).ok_or_else(|| BootError::UnknownRootImage {
        path: disk.to_owned(),
    })
}

fn recognise(start: &[u8]) -> Option<&'static str> {
    ROOT_FILE_SYSTEMS
        .iter()
        .find(|(_, offset, magic)| start.get(*offset..offset + magic.len()) == Some(magic))
        .map(|(kind, _, _)| *kind)
}

/// Mounts the overlay disk and returns whether it is new.
fn mount_overlay_disk(disk: &Path) -> Result<bool, BootError> {
    make_directory(Path::new(OVERLAY))?;
    // Inode tables that mkfs left for later are not needed, and writing them would fill the
    // sparse file on the host (ext4(5), "noinit_itable").
    let options = c"noinit_itable";
    mount(disk, OVERLAY, "ext4", MountFlags::NOATIME, options).map_err(|errno| {
        BootError::Mount {
            what: "ext4",
            target: OVERLAY,
            source: errno.into(),
        }
    })?;
    let is_new = !Path::new(UPPER).exists();
    make_directory(Path::new(UPPER))?;
    make_directory(Path::new(WORK))?;
    Ok(is_new)
}

fn open_directory(path: &'static str) -> Result<OwnedFd, BootError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| BootError::ReadDisk {
        path: path.into(),
        source: errno.into(),
    })
}

fn move_virtual_file_systems() -> Result<(), BootError> {
    for (from, to) in [
        ("/proc", "/smolvm/root/proc"),
        ("/sys", "/smolvm/root/sys"),
        ("/dev", "/smolvm/root/dev"),
    ] {
        make_directory(Path::new(to))?;
        mount_move(from, to).map_err(|errno| BootError::Mount {
            what: from,
            target: to,
            source: errno.into(),
        })?;
    }
    Ok(())
}

/// Gives the memory of the initramfs back. Open files, such as the late modules, stay.
fn free_initramfs() {
    // What cannot be removed only costs memory.
    let _ = fs::remove_dir_all(MODULE_DIRECTORY);
    let _ = fs::remove_file("/init");
}

/// Makes the new root the root: moved over the initramfs, which cannot be unmounted
/// (Linux Documentation/filesystems/ramfs-rootfs-initramfs.rst).
fn enter_new_root() -> Result<(), BootError> {
    let at = |step| {
        move |errno: rustix::io::Errno| BootError::SwitchRoot {
            step,
            source: errno.into(),
        }
    };
    rustix::process::chdir(NEW_ROOT).map_err(at("entering it"))?;
    mount_move(".", "/").map_err(at("moving it"))?;
    rustix::process::chroot(".").map_err(at("changing the root"))?;
    rustix::process::chdir("/").map_err(at("entering the root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_told_by_their_magic_numbers() {
        let mut ext4 = vec![0; MAGIC_BYTES];
        ext4[1080] = 0x53;
        ext4[1081] = 0xef;
        assert_eq!(recognise(b"hsqs rest of a superblock"), Some("squashfs"));
        assert_eq!(recognise(&ext4), Some("ext4"));
    }

    #[test]
    fn root_is_shared_only_when_the_last_word_about_it_says_so() {
        assert!(is_shared("console=ttyS0 smolvm.root=shared quiet\n"));
        assert!(!is_shared("smolvm.root=shared smolvm.root=overlay"));
        assert!(!is_shared("smolvm.rootx=shared root=shared"));
    }

    #[test]
    fn empty_or_short_disk_is_no_file_system() {
        assert_eq!(recognise(&[]), None);
        assert_eq!(recognise(&[0; MAGIC_BYTES]), None);
    }
}
