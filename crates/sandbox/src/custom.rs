//! Files of the user's own to boot from: what they must be, checked before anything is made.
//!
//! Each error names the field it is about as the configuration spells it, such as `kernel_path`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::CustomBoot;

/// Most disks besides root and overlay. QEMU's microvm machine has 24 virtio slots where it has a
/// second interrupt controller and 8 where it has not (docs/system/i386/microvm.rst); three are
/// ours.
pub const MAX_EXTRA_DRIVES: usize = 5;

/// Most of the kernel's command line that may be the user's: x86 kernels keep 2,048 bytes in all
/// (arch/x86/include/asm/setup.h, `COMMAND_LINE_SIZE`), and ours needs some 300.
pub const MAX_BOOT_ARGS_BYTES: usize = 1536;

/// Largest initramfs: the guest holds it in memory twice while it unpacks it.
pub const MAX_INITRAMFS_BYTES: u64 = 1 << 30;

/// Bytes of a file that hold every magic number looked for: that of ext4 ends here.
const MAGIC_BYTES: usize = 1024 + 58;

/// Words of a command line that decide what SmolVM decides, by their beginnings: where the
/// console, the init and the root are, how a machine ends, which buses it has.
const DROPPED_PREFIXES: &[&str] = &[
    "acpi=",
    "console=",
    "init=",
    "initrd=",
    "panic=",
    "pci=",
    "rdinit=",
    "reboot=",
    "root=",
    "rootdelay=",
    "rootflags=",
    "rootfstype=",
    "smolvm.",
];

/// Such words that stand alone. What follows `--` would be arguments of init.
const DROPPED_WORDS: &[&str] = &["--", "noinitrd", "ro", "rootwait", "rw"];

/// Why files cannot be booted from.
#[derive(Debug, thiserror::Error)]
pub enum CustomBootError {
    /// There is no such file.
    #[error("{field}: path does not exist: {}", path.display())]
    Missing {
        /// The field that names it.
        field: String,
        /// The path given.
        path: PathBuf,
    },
    /// It is a directory, a device, or something else.
    #[error("{field}: path is not a file: {}", path.display())]
    NotAFile {
        /// The field that names it.
        field: String,
        /// The path given.
        path: PathBuf,
    },
    /// It cannot be read, or not be written to where the guest is to write to it.
    #[error("{field}: cannot {action} {}", path.display())]
    Unusable {
        /// The field that names it.
        field: String,
        /// What was attempted.
        action: &'static str,
        /// The path given.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its content is not of a kind that can be used.
    #[error("{field}: {} is {found}; it must be {wanted}", path.display())]
    Content {
        /// The field that names it.
        field: String,
        /// The path given.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// It is too large.
    #[error("{field}: {} has {bytes} bytes; at most {max} are possible", path.display())]
    TooLarge {
        /// The field that names it.
        field: String,
        /// The path given.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest possible.
        max: u64,
    },
    /// There are more disks than the machine has places for.
    #[error("extra_drives: {count} drives; at most {MAX_EXTRA_DRIVES} are possible")]
    TooManyDrives {
        /// How many there are.
        count: usize,
    },
    /// The kernel cannot be given these words.
    #[error("boot_args: {reason}")]
    BootArgs {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A shared root was asked for without naming one.
    #[error("disk_mode: 'shared' needs a rootfs_path: there is nothing to share without it")]
    NothingToShare,
}

/// A root file system, by its magic number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RootKind {
    Ext4,
    Squashfs,
    Erofs,
    Unknown,
}

/// Checks all files and returns them under their absolute paths.
///
/// # Errors
///
/// The first file that cannot be used.
pub(crate) fn checked(custom: &CustomBoot) -> Result<CustomBoot, CustomBootError> {
    let resolve = |field: &str, path: &Option<PathBuf>| {
        path.as_deref()
            .map(|path| regular_file(field, path))
            .transpose()
    };
    let checked = CustomBoot {
        kernel: resolve("kernel_path", &custom.kernel)?,
        root_image: resolve("rootfs_path", &custom.root_image)?,
        initramfs: resolve("initrd_path", &custom.initramfs)?,
        extra_drives: extra_drives(&custom.extra_drives)?,
        boot_args: custom.boot_args.as_deref().map(boot_args).transpose()?,
        is_shared: custom.is_shared,
    };
    if let Some(kernel) = &checked.kernel {
        check_kernel(kernel)?;
    }
    match &checked.root_image {
        Some(root_image) => check_root(root_image, custom.is_shared)?,
        None if custom.is_shared => return Err(CustomBootError::NothingToShare),
        None => {}
    }
    if let Some(initramfs) = &checked.initramfs {
        check_initramfs(initramfs)?;
    }
    Ok(checked)
}

/// Returns what of `text` the kernel is given after our own words.
///
/// # Errors
///
/// When it is too long or has characters that a command line cannot have.
pub(crate) fn boot_args(text: &str) -> Result<String, CustomBootError> {
    let refuse = |reason| CustomBootError::BootArgs { reason };
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return Err(refuse("they contain a control character"));
    }
    let is_ours = |word: &&str| {
        DROPPED_WORDS.contains(word)
            || DROPPED_PREFIXES
                .iter()
                .any(|prefix| word.starts_with(prefix))
    };
    let kept: Vec<&str> = text
        .split_whitespace()
        .filter(|word| !is_ours(word))
        .collect();
    let kept = kept.join(" ");
    if kept.len() > MAX_BOOT_ARGS_BYTES {
        return Err(refuse("they are longer than 1536 bytes"));
    }
    Ok(kept)
}

fn extra_drives(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CustomBootError> {
    if paths.len() > MAX_EXTRA_DRIVES {
        return Err(CustomBootError::TooManyDrives { count: paths.len() });
    }
    let drives = paths.iter().enumerate().map(|(index, path)| {
        let field = format!("extra_drives[{index}]");
        let path = regular_file(&field, path)?;
        check_writable(&field, &path)?;
        Ok(path)
    });
    drives.collect()
}

fn regular_file(field: &str, path: &Path) -> Result<PathBuf, CustomBootError> {
    let unusable = |action, source| CustomBootError::Unusable {
        field: field.to_owned(),
        action,
        path: path.to_owned(),
        source,
    };
    let resolved = match path.canonicalize() {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CustomBootError::Missing {
                field: field.to_owned(),
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(unusable("find", error)),
    };
    let metadata = fs::metadata(&resolved).map_err(|error| unusable("examine", error))?;
    if !metadata.is_file() {
        return Err(CustomBootError::NotAFile {
            field: field.to_owned(),
            path: path.to_owned(),
        });
    }
    File::open(&resolved).map_err(|error| unusable("read", error))?;
    Ok(resolved)
}

fn check_writable(field: &str, path: &Path) -> Result<(), CustomBootError> {
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened
        .map(drop)
        .map_err(|source| CustomBootError::Unusable {
            field: field.to_owned(),
            action: "write to",
            path: path.to_owned(),
            source,
        })
}

fn check_kernel(path: &Path) -> Result<(), CustomBootError> {
    let refuse = |found| CustomBootError::Content {
        field: "kernel_path".to_owned(),
        path: path.to_owned(),
        found,
        wanted: "an x86-64 ELF kernel (vmlinux) or a bzImage",
    };
    let start = beginning("kernel_path", path)?;
    // e_machine of an ELF header (elf(5)); "HdrS" of a bzImage (kernel, arch/x86/boot.rst).
    match (start.get(..5), start.get(18..20), start.get(0x202..0x206)) {
        (Some(b"\x7fELF\x02"), Some(b"\x3e\0"), _) | (_, _, Some(b"HdrS")) => Ok(()),
        (Some([0x7f, b'E', b'L', b'F', _]), _, _) => Err(refuse("an ELF file for another machine")),
        (Some([0x1f, 0x8b, ..]), _, _) => Err(refuse("compressed with gzip")),
        (None, _, _) => Err(refuse("empty or cut off")),
        _ => Err(refuse("no kernel")),
    }
}

fn check_root(path: &Path, is_shared: bool) -> Result<(), CustomBootError> {
    let refuse = |found, wanted| CustomBootError::Content {
        field: "rootfs_path".to_owned(),
        path: path.to_owned(),
        found,
        wanted,
    };
    match root_kind(&beginning("rootfs_path", path)?) {
        RootKind::Unknown => Err(refuse(
            "no file system that is known",
            "an ext4, squashfs or erofs file system without a partition table",
        )),
        RootKind::Squashfs | RootKind::Erofs if is_shared => Err(refuse(
            "a read-only file system",
            "ext4 where disk_mode is 'shared'",
        )),
        RootKind::Ext4 if is_shared => check_writable("rootfs_path", path),
        RootKind::Ext4 | RootKind::Squashfs | RootKind::Erofs => Ok(()),
    }
}

fn root_kind(start: &[u8]) -> RootKind {
    // The same numbers that the agent looks for (crates/agent/src/boot/root.rs).
    if start.starts_with(b"hsqs") {
        RootKind::Squashfs
    } else if start.get(1024..1028) == Some(&0xe0f5_e1e2_u32.to_le_bytes()[..]) {
        RootKind::Erofs
    } else if start.get(1080..1082) == Some(&0xef53_u16.to_le_bytes()[..]) {
        RootKind::Ext4
    } else {
        RootKind::Unknown
    }
}

fn check_initramfs(path: &Path) -> Result<(), CustomBootError> {
    let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
    if bytes > MAX_INITRAMFS_BYTES {
        return Err(CustomBootError::TooLarge {
            field: "initrd_path".to_owned(),
            path: path.to_owned(),
            bytes,
            max: MAX_INITRAMFS_BYTES,
        });
    }
    Ok(())
}

fn beginning(field: &str, path: &Path) -> Result<Vec<u8>, CustomBootError> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    let read =
        File::open(path).and_then(|file| file.take(MAGIC_BYTES as u64).read_to_end(&mut start));
    match read {
        Ok(_) => Ok(start),
        Err(source) => Err(CustomBootError::Unusable {
            field: field.to_owned(),
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custom(change: impl FnOnce(&mut CustomBoot)) -> Result<CustomBoot, CustomBootError> {
        let mut custom = CustomBoot::default();
        change(&mut custom);
        checked(&custom)
    }

    #[test]
    fn words_that_would_break_the_boot_are_dropped() {
        let reference = "console=ttyS0 reboot=k panic=1 pci=off root=/dev/vda rw init=/init";
        assert_eq!(boot_args(reference).unwrap(), "");
        let mixed = "quiet root=/dev/vda\n mitigations=off smolvm.hostname=evil -- ro";
        assert_eq!(boot_args(mixed).unwrap(), "quiet mitigations=off");
    }

    #[test]
    fn command_lines_that_are_cut_off_or_hold_a_nul_are_refused() {
        assert!(boot_args(&"a ".repeat(MAX_BOOT_ARGS_BYTES)).is_err());
        assert!(boot_args("a\0b").is_err());
    }

    #[test]
    fn errors_name_the_field() {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("text");
        fs::write(&text, vec![b'x'; 4096]).unwrap();
        let missing = directory.path().join("missing");
        let cases = [
            (
                custom(|boot| boot.kernel = Some(missing.clone())),
                "kernel_path: path does not exist: ",
            ),
            (
                custom(|boot| boot.root_image = Some(directory.path().to_owned())),
                "rootfs_path: path is not a file: ",
            ),
            (
                custom(|boot| boot.extra_drives = vec![text.clone(), missing.clone()]),
                "extra_drives[1]: path does not exist: ",
            ),
            (
                custom(|boot| boot.initramfs = Some("/dev/null".into())),
                "initrd_path: path is not a file: /dev/null",
            ),
            (
                custom(|boot| boot.kernel = Some(text.clone())),
                "kernel_path: ",
            ),
            (
                custom(|boot| boot.root_image = Some(text.clone())),
                "rootfs_path: ",
            ),
            (custom(|boot| boot.is_shared = true), "disk_mode: "),
        ];
        for (outcome, beginning) in cases {
            let message = outcome.unwrap_err().to_string();
            assert!(message.starts_with(beginning), "{message}");
        }
    }

    #[test]
    fn kernels_and_roots_are_told_by_their_content() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, offset: usize, magic: &[u8]| {
            let mut bytes = vec![0; 4096];
            bytes[offset..offset + magic.len()].copy_from_slice(magic);
            let path = directory.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let bz_image = write("bzImage", 0x202, b"HdrS");
        let squashfs = write("squashfs", 0, b"hsqs");
        let ext4 = write("ext4", 1080, &[0x53, 0xef]);
        assert!(custom(|boot| boot.kernel = Some(bz_image)).is_ok());
        assert!(custom(|boot| boot.root_image = Some(squashfs.clone())).is_ok());
        let shared = |root: PathBuf| {
            custom(|boot| {
                boot.root_image = Some(root);
                boot.is_shared = true;
            })
        };
        assert!(shared(ext4).is_ok());
        assert!(
            shared(squashfs).is_err(),
            "a read-only root cannot be shared"
        );
    }
}
