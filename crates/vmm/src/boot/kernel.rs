//! The kernel and the initial file system, from files into the guest's memory.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use linux_loader::elf;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Cmdline, KernelLoader as _, load_cmdline};
use vm_memory::GuestAddress;

use super::layout;
use crate::memory::{GuestRam, read_file_at};

/// Page size of x86.
const PAGE_BYTES: u64 = 4096;

/// From where a bzImage's 64-bit entry is (Linux 6.12,
/// Documentation/arch/x86/boot.rst, "64-bit boot protocol").
const BZIMAGE_64_BIT_ENTRY: u64 = 0x200;

/// The bzImage has that entry: a flag of headers from version 2.12 on (the same, `xloadflags`).
const BZIMAGE_HAS_64_BIT_ENTRY: u16 = 1 << 0;
const BZIMAGE_VERSION_WITH_FLAGS: u16 = 0x020c;

/// Why a guest's kernel cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is neither an ELF file with a PVH entry nor a bzImage, or it is damaged.
    #[error("{} is no kernel that can be booted: {reason}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The kernel or the initial file system does not fit.
    #[error(
        "{} of {} KiB does not fit into memory of {} MiB", path.display(),
        size_bytes >> 10, memory_bytes >> 20
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// The memory below the devices' registers.
        memory_bytes: u64,
    },
    /// The command line is not one that a kernel takes.
    #[error("the command line: {reason}")]
    CommandLine {
        /// Why not.
        reason: String,
    },
}

/// Where a kernel is entered, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// PVH: 32-bit protected mode (Xen's docs/misc/pvh.pandoc).
    Pvh(u64),
    /// The 64-bit entry of a bzImage, with the header of its file.
    Linux64(u64, setup_header),
}

/// What has been loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// Where the kernel is entered.
    pub(crate) entry: Entry,
    /// Where the initial file system is, and its size in bytes.
    pub(crate) initramfs: (u64, u64),
}

/// Loads kernel, initial file system and command line.
pub(crate) fn load(
    ram: &GuestRam,
    kernel: &Path,
    initramfs: &Path,
    command_line: &str,
) -> Result<Loaded, LoadError> {
    let (entry, kernel_end) = load_kernel(ram, kernel)?;
    let initramfs = load_initramfs(ram, initramfs, kernel_end)?;
    load_command_line(ram, command_line)?;
    Ok(Loaded { entry, initramfs })
}

fn load_kernel(ram: &GuestRam, path: &Path) -> Result<(Entry, u64), LoadError> {
    let mut file = open(path)?;
    let not_a_kernel = |reason: String| LoadError::NotAKernel {
        path: path.to_owned(),
        reason,
    };
    let at = Some(GuestAddress(layout::HIGH_MEMORY));
    let mut magic = [0; 4];
    io::Read::read_exact(&mut file, &mut magic).map_err(|error| not_a_kernel(error.to_string()))?;
    file.seek(SeekFrom::Start(0))
        .map_err(|source| read_error(path, source))?;
    let (entry, loaded_end, end) = if u32::from_le_bytes(magic) == elf_magic() {
        let loaded = Elf::load(ram.memory(), None, &mut file, at)
            .map_err(|error| not_a_kernel(error.to_string()))?;
        let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
            return Err(not_a_kernel("it has no PVH entry".to_owned()));
        };
        (Entry::Pvh(entry.0), loaded.kernel_end, loaded.kernel_end)
    } else {
        let loaded = BzImage::load(ram.memory(), None, &mut file, at)
            .map_err(|error| not_a_kernel(error.to_string()))?;
        let header = loaded
            .setup_header
            .ok_or_else(|| not_a_kernel("it has no header".to_owned()))?;
        let (version, flags) = (header.version, header.xloadflags);
        if version < BZIMAGE_VERSION_WITH_FLAGS || flags & BZIMAGE_HAS_64_BIT_ENTRY == 0 {
            return Err(not_a_kernel("it has no 64-bit entry".to_owned()));
        }
        let entry = loaded.kernel_load.0 + BZIMAGE_64_BIT_ENTRY;
        // It decompresses itself into as much memory as its header says.
        let end = loaded.kernel_load.0 + u64::from(header.init_size);
        let end = end.max(loaded.kernel_end);
        (Entry::Linux64(entry, header), loaded.kernel_end, end)
    };
    let (Entry::Pvh(address) | Entry::Linux64(address, _)) = entry;
    if (layout::HIGH_MEMORY..loaded_end).contains(&address) {
        Ok((entry, end))
    } else {
        Err(not_a_kernel(format!(
            "nothing is at its entry, {address:#x}"
        )))
    }
}

fn elf_magic() -> u32 {
    u32::from_le_bytes([elf::ELFMAG0, elf::ELFMAG1, elf::ELFMAG2, elf::ELFMAG3])
}

/// Puts the initial file system at the end of low memory, as far from the kernel as there is.
fn load_initramfs(ram: &GuestRam, path: &Path, kernel_end: u64) -> Result<(u64, u64), LoadError> {
    let file = open(path)?;
    let size_bytes = file
        .metadata()
        .map_err(|source| read_error(path, source))?
        .len();
    let too_large = || LoadError::TooLarge {
        path: path.to_owned(),
        size_bytes,
        memory_bytes: ram.low_end(),
    };
    let start = ram
        .low_end()
        .checked_sub(size_bytes)
        .ok_or_else(too_large)?;
    let start = start - start % PAGE_BYTES;
    if start < kernel_end {
        return Err(too_large());
    }
    let mut done = 0;
    while done < size_bytes {
        let left = usize::try_from(size_bytes - done).map_err(|_| too_large())?;
        let slice = vm_memory::GuestMemoryBackend::get_slice(
            ram.memory(),
            GuestAddress(start + done),
            left,
        )
        .map_err(|_| too_large())?;
        let count = read_file_at(std::os::fd::AsFd::as_fd(&file), &[slice], done)
            .map_err(|source| read_error(path, source))?;
        if count == 0 {
            return Err(read_error(path, io::ErrorKind::UnexpectedEof.into()));
        }
        done += count as u64;
    }
    Ok((start, size_bytes))
}

fn load_command_line(ram: &GuestRam, text: &str) -> Result<(), LoadError> {
    let refused = |reason: String| LoadError::CommandLine { reason };
    let mut line =
        Cmdline::new(layout::MAX_COMMAND_LINE_BYTES).map_err(|error| refused(error.to_string()))?;
    line.insert_str(text)
        .map_err(|error| refused(error.to_string()))?;
    load_cmdline(ram.memory(), GuestAddress(layout::COMMAND_LINE), &line)
        .map_err(|error| refused(error.to_string()))
}

fn open(path: &Path) -> Result<File, LoadError> {
    File::open(path).map_err(|source| read_error(path, source))
}

fn read_error(path: &Path, source: io::Error) -> LoadError {
    LoadError::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::NamedTempFile;

    use super::*;

    /// A kernel's place in memory, and its size in the file.
    const KERNEL: u32 = 0x10_0000;
    const KERNEL_BYTES: usize = 0x400;

    /// Returns a bzImage that only has a header, and `KERNEL_BYTES` for the kernel.
    fn bzimage(flags: u8) -> Vec<u8> {
        let mut file = vec![0; 2 * 512 + KERNEL_BYTES];
        // One sector of set-up, the magic number, version 2.15, loaded high.
        (file[0x1f1], file[0x206], file[0x207], file[0x211]) = (1, 0x0f, 0x02, 1);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x214..0x218].copy_from_slice(&KERNEL.to_le_bytes());
        file[0x236] = flags;
        file
    }

    fn load_bytes(kernel: &[u8], initramfs_bytes: u64) -> Result<Loaded, LoadError> {
        let (mut file, initramfs) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        file.write_all(kernel).unwrap();
        initramfs.as_file().set_len(initramfs_bytes).unwrap();
        let ram = GuestRam::new(16 << 20).unwrap();
        load(&ram, file.path(), initramfs.path(), "quiet")
    }

    #[test]
    fn kernel_is_entered_where_its_header_says() {
        let loaded = load_bytes(&bzimage(1), 4096).unwrap();
        assert!(matches!(loaded.entry, Entry::Linux64(0x10_0200, _)));
        assert_eq!(loaded.initramfs, ((16 << 20) - 4096, 4096));
    }

    #[test]
    fn kernel_for_32_bits_is_refused() {
        let error = load_bytes(&bzimage(0), 0).unwrap_err();
        assert!(
            error.to_string().ends_with("it has no 64-bit entry"),
            "{error}"
        );
    }

    #[test]
    fn kernel_that_is_cut_before_its_entry_is_refused() {
        let error = load_bytes(&bzimage(1)[..1024 + 0x200], 0).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("nothing is at its entry, 0x100200"),
            "{error}"
        );
        for length in [0, 3, 4, 0x1f1, 0x202, 1023] {
            let error = load_bytes(&bzimage(1)[..length], 0).unwrap_err();
            assert!(matches!(error, LoadError::NotAKernel { .. }), "{error}");
        }
    }

    #[test]
    fn initial_file_system_that_would_overlap_the_kernel_is_refused() {
        let most = (15 << 20) - KERNEL_BYTES as u64;
        let most = most - most % PAGE_BYTES;
        assert!(load_bytes(&bzimage(1), most).is_ok());
        let error = load_bytes(&bzimage(1), most + 1).unwrap_err();
        assert!(matches!(error, LoadError::TooLarge { .. }), "{error}");
    }
}
