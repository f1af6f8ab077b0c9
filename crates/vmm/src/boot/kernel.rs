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
    if u32::from_le_bytes(magic) == elf_magic() {
        let loaded = Elf::load(ram.memory(), None, &mut file, at)
            .map_err(|error| not_a_kernel(error.to_string()))?;
        let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
            return Err(not_a_kernel("it has no PVH entry".to_owned()));
        };
        Ok((Entry::Pvh(entry.0), loaded.kernel_end))
    } else {
        let loaded = BzImage::load(ram.memory(), None, &mut file, at)
            .map_err(|error| not_a_kernel(error.to_string()))?;
        let header = loaded
            .setup_header
            .ok_or_else(|| not_a_kernel("it has no header".to_owned()))?;
        let entry = loaded.kernel_load.0 + BZIMAGE_64_BIT_ENTRY;
        // It decompresses itself into as much memory as its header says.
        let end = loaded.kernel_load.0 + u64::from(header.init_size);
        Ok((Entry::Linux64(entry, header), end.max(loaded.kernel_end)))
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
