//! The kernel and the initial file system, from files into the guest's memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
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

/// Bytes of a kernel's file that tell what it is: an ELF file's header.
const HEAD_BYTES: usize = 64;

// The header of an ELF file (elf(5), `Elf64_Ehdr`): its first bytes, how wide its addresses are, and
// for which processor it is.
const ELF_MAGIC: [u8; 4] = [elf::ELFMAG0, elf::ELFMAG1, elf::ELFMAG2, elf::ELFMAG3];
const ELF_64_BIT: u8 = 2;
const ELF_MACHINE: usize = 18;
const ELF_X86_64: u16 = 62;

/// A kernel for 64-bit ARM has these bytes in its header (Linux 6.12,
/// Documentation/arch/arm64/booting.rst, `magic`).
const ARM64_MAGIC: &[u8] = b"ARM\x64";
const ARM64_MAGIC_OFFSET: usize = 56;

// The header of a bzImage (Linux 6.12, Documentation/arch/x86/boot.rst): in which units it counts
// its parts, the version that has `xloadflags`, and whether its 64-bit entry is there (bit 0,
// `XLF_KERNEL_64`).
const SECTOR_BYTES: u64 = 512;
const PARAGRAPH_BYTES: u64 = 16;
const BZIMAGE_LOAD_FLAGS_VERSION: u16 = 0x020c;
const BZIMAGE_64_BIT: u16 = 1 << 0;

const CUT: &str = "the file is cut short";
const FOREIGN: &str = "it is for another processor than x86-64";

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
        "{} of {} KiB does not fit into memory of {} MiB: give it more", path.display(),
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
    let mut head = [0; HEAD_BYTES];
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(not_a_kernel(CUT.to_owned()));
        }
        read => read.map_err(|source| read_error(path, source))?,
    }
    file.seek(SeekFrom::Start(0))
        .map_err(|source| read_error(path, source))?;
    let loaded = if head.starts_with(&ELF_MAGIC) {
        load_elf(ram, &mut file, &head)
    } else {
        load_bzimage(ram, &mut file, &head)
    };
    let (entry, end) = loaded.map_err(not_a_kernel)?;
    if end > ram.low_end() {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
            size_bytes: end.saturating_sub(layout::HIGH_MEMORY),
            memory_bytes: ram.low_end(),
        });
    }
    Ok((entry, end))
}

/// Loads an ELF file. Returns where it is entered and where it ends, or why it is not a kernel.
fn load_elf(
    ram: &GuestRam,
    file: &mut File,
    head: &[u8; HEAD_BYTES],
) -> Result<(Entry, u64), String> {
    let machine = u16::from_le_bytes([head[ELF_MACHINE], head[ELF_MACHINE + 1]]);
    if (head[elf::EI_CLASS], machine) != (ELF_64_BIT, ELF_X86_64) {
        return Err(format!("{FOREIGN} (ELF machine {machine})"));
    }
    let at = Some(GuestAddress(layout::HIGH_MEMORY));
    let loaded = Elf::load(ram.memory(), None, file, at).map_err(|error| {
        format!("{error}; the file may be cut short, or the memory too small for it")
    })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err("it has no PVH entry (CONFIG_PVH)".to_owned());
    };
    let end = loaded.kernel_end;
    check_entry(entry.0, end)?;
    Ok((Entry::Pvh(entry.0), end))
}

/// The same for a bzImage.
fn load_bzimage(
    ram: &GuestRam,
    file: &mut File,
    head: &[u8; HEAD_BYTES],
) -> Result<(Entry, u64), String> {
    if head[ARM64_MAGIC_OFFSET..].starts_with(ARM64_MAGIC) {
        return Err(format!("{FOREIGN} (64-bit ARM)"));
    }
    let at = Some(GuestAddress(layout::HIGH_MEMORY));
    let size_bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let loaded = BzImage::load(ram.memory(), None, file, at).map_err(|error| error.to_string())?;
    let header = loaded.setup_header.ok_or("it has no header")?;
    if header.version < BZIMAGE_LOAD_FLAGS_VERSION || header.xloadflags & BZIMAGE_64_BIT == 0 {
        return Err(format!("{FOREIGN} (32-bit x86)"));
    }
    // No sectors means four, as it did when they were not counted.
    let setup_sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let promised = (setup_sectors + 1) * SECTOR_BYTES + u64::from(header.syssize) * PARAGRAPH_BYTES;
    if size_bytes < promised {
        return Err(format!("{CUT}: {size_bytes} of {promised} bytes are there"));
    }
    let entry = loaded.kernel_load.0 + BZIMAGE_64_BIT_ENTRY;
    check_entry(entry, loaded.kernel_end)?;
    // It decompresses itself into as much memory as its header says.
    let end = loaded.kernel_load.0 + u64::from(header.init_size);
    Ok((Entry::Linux64(entry, header), end.max(loaded.kernel_end)))
}

/// Says why a kernel that was loaded up to `end` cannot be entered at `address`.
fn check_entry(address: u64, end: u64) -> Result<(), String> {
    if (layout::HIGH_MEMORY..end).contains(&address) {
        Ok(())
    } else {
        Err(format!("nothing is at its entry, {address:#x}"))
    }
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
    regular_file(OpenOptions::new().read(true), path).map_err(|source| read_error(path, source))
}

/// Opens a file that is one: a directory has no bytes, and others may have no end.
pub(crate) fn regular_file(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for its other end; regular files know no waiting.
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

fn read_error(path: &Path, source: io::Error) -> LoadError {
    LoadError::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
