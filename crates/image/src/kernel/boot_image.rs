//! From a bzImage to the ELF kernel inside it.
//!
//! A bzImage is a boot sector with a setup header, real-mode setup code, and a protected-mode
//! part that carries the compressed vmlinux (Linux Documentation/arch/x86/boot.rst). Since boot
//! protocol 2.08 the header says where the payload lies. The kernel's build chose its format, so
//! every one that Debian has used is understood.
//!
//! The input comes from a signed package and is parsed as if it did not: all arithmetic is
//! checked, and the output is bounded.

use std::io::{self, Read};

use object::Endianness;
use object::elf::{ELFCLASS64, EM_X86_64, ET_EXEC, FileHeader64, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};

/// Offsets of the setup header, boot.rst "The Real-Mode Kernel Header".
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PROTOCOL_VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// First protocol with `payload_offset` and `payload_length`.
const OLDEST_PROTOCOL: u16 = 0x0208;

/// Size of a sector, in which the setup code is counted.
const SECTOR_BYTES: usize = 512;

/// Largest kernel that is unwrapped. Debian's cloud kernel 6.1 is 53 MB.
const MAX_KERNEL_BYTES: u64 = 512 << 20;

/// LZ4 legacy frame: magic, then blocks of at most 8 MiB of content, each after its compressed
/// length (LZ4 Frame Format 1.6.3, "Legacy frame").
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_LEGACY_BLOCK_BYTES: usize = 8 << 20;

/// Owner and type of the ELF note with the 32-bit PVH entry point
/// (Linux include/xen/interface/elfnote.h: `XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_NOTE_NAME: &[u8] = b"Xen";
const PVH_NOTE_TYPE: u32 = 18;

/// Why a boot image has no usable kernel.
#[derive(Debug, thiserror::Error)]
pub enum BootImageError {
    /// It is not a bzImage.
    #[error("it is not a bzImage (no HdrS at {HEADER_MAGIC:#x})")]
    NotABootImage,
    /// It is too old to say where its payload is.
    #[error("its boot protocol {found:#06x} is older than {OLDEST_PROTOCOL:#06x}")]
    OldProtocol {
        /// The protocol it states.
        found: u16,
    },
    /// Its header points outside the file.
    #[error("its payload ({length} bytes at {offset:#x}) is not inside the file")]
    PayloadOutside {
        /// Where the payload begins, from the protected-mode part.
        offset: u32,
        /// Its length in bytes.
        length: u32,
    },
    /// The payload's first bytes belong to no known format.
    #[error("its payload has an unknown format (begins with {magic:02x?})")]
    UnknownFormat {
        /// The first bytes.
        magic: [u8; 6],
    },
    /// The payload is damaged.
    #[error("its {format} payload cannot be decompressed")]
    Decompress {
        /// The payload's format.
        format: &'static str,
        /// What the decompressor said.
        source: io::Error,
    },
    /// What was inside is not the kernel we can boot.
    #[error("the kernel inside is not bootable")]
    Kernel(#[from] ElfKernelError),
}

/// Why an ELF file is not a kernel that engines can boot.
#[derive(Debug, thiserror::Error)]
pub enum ElfKernelError {
    /// It cannot be parsed.
    #[error("it is not an ELF file")]
    NotElf(#[source] object::Error),
    /// It is for another machine.
    #[error("it is not an x86-64 executable (machine {machine}, type {file_type})")]
    WrongMachine {
        /// `e_machine`.
        machine: u16,
        /// `e_type`.
        file_type: u16,
    },
    /// It was built without CONFIG_PVH.
    #[error("it has no PVH entry point (built without CONFIG_PVH)")]
    NoPvhEntry,
}

/// Returns the ELF kernel inside the bzImage `image`.
pub(super) fn unwrap(image: &[u8]) -> Result<Vec<u8>, BootImageError> {
    let kernel = decompress(payload(image)?)?;
    check_kernel(&kernel)?;
    Ok(kernel)
}

fn payload(image: &[u8]) -> Result<&[u8], BootImageError> {
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS") {
        return Err(BootImageError::NotABootImage);
    }
    let found = word(image, PROTOCOL_VERSION).ok_or(BootImageError::NotABootImage)?;
    if found < OLDEST_PROTOCOL {
        return Err(BootImageError::OldProtocol { found });
    }
    let offset = double_word(image, PAYLOAD_OFFSET).ok_or(BootImageError::NotABootImage)?;
    let length = double_word(image, PAYLOAD_LENGTH).ok_or(BootImageError::NotABootImage)?;
    // "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
    let sectors = match image[SETUP_SECTS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let setup_bytes = (sectors + 1) * SECTOR_BYTES;
    let range = || {
        let start = setup_bytes.checked_add(usize::try_from(offset).ok()?)?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        image.get(start..end)
    };
    range().ok_or(BootImageError::PayloadOutside { offset, length })
}

fn word(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

fn double_word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, BootImageError> {
    let damaged = |format| move |source| BootImageError::Decompress { format, source };
    // scripts/Makefile.lib `size_append`: formats without a size of their own are followed by
    // the kernel's size; it is not part of the stream, and readers stop before it.
    if let Some(blocks) = payload.strip_prefix(&LZ4_LEGACY_MAGIC) {
        return decompress_lz4(blocks).map_err(damaged("LZ4"));
    }
    if payload.starts_with(b"\xfd7zXZ\0") {
        let reader = lzma_rust2::XzReader::new(payload, false);
        return read_bounded(reader).map_err(damaged("xz"));
    }
    if payload.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return decompress_zstd(payload).map_err(damaged("zstd"));
    }
    if payload.starts_with(&[0x1f, 0x8b]) {
        return read_bounded(flate2::read::GzDecoder::new(payload)).map_err(damaged("gzip"));
    }
    let mut magic = [0; 6];
    let length = payload.len().min(magic.len());
    magic[..length].copy_from_slice(&payload[..length]);
    Err(BootImageError::UnknownFormat { magic })
}

pub(super) fn decompress_zstd(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let reader = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(io::Error::other)?;
    read_bounded(reader)
}

pub(super) fn read_bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_KERNEL_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_KERNEL_BYTES {
        return Err(invalid("larger than any kernel"));
    }
    Ok(bytes)
}

/// Decompresses the blocks of an LZ4 legacy frame, up to the appended size.
fn decompress_lz4(mut blocks: &[u8]) -> io::Result<Vec<u8>> {
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_LEGACY_BLOCK_BYTES];
    // The last four bytes are the kernel's size, put there by the kernel's build.
    while blocks.len() > 4 {
        let length = double_word(blocks, 0).and_then(|length| usize::try_from(length).ok());
        let end = length.and_then(|length| length.checked_add(4));
        let compressed = end.and_then(|end| blocks.get(4..end));
        let compressed = compressed.ok_or_else(|| invalid("a block ends outside the payload"))?;
        let size = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if (kernel.len() + size) as u64 > MAX_KERNEL_BYTES {
            return Err(invalid("larger than any kernel"));
        }
        kernel.extend_from_slice(&block[..size]);
        blocks = &blocks[compressed.len() + 4..];
    }
    if double_word(blocks, 0).is_none_or(|size| kernel.len() != size as usize) {
        return Err(invalid("the kernel does not have the announced size"));
    }
    Ok(kernel)
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Checks that `kernel` is an x86-64 ELF executable with a PVH entry point.
pub(super) fn check_kernel(kernel: &[u8]) -> Result<(), ElfKernelError> {
    let header = FileHeader64::<Endianness>::parse(kernel).map_err(ElfKernelError::NotElf)?;
    let endian = header.endian().map_err(ElfKernelError::NotElf)?;
    let (machine, file_type) = (header.e_machine(endian), header.e_type(endian));
    if header.e_ident().class != ELFCLASS64 || machine != EM_X86_64 || file_type != ET_EXEC {
        return Err(ElfKernelError::WrongMachine {
            machine: machine.0,
            file_type: file_type.0,
        });
    }
    let segments = header
        .program_headers(endian, kernel)
        .map_err(ElfKernelError::NotElf)?;
    for segment in segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_NOTE)
    {
        let notes = segment
            .notes(endian, kernel)
            .map_err(ElfKernelError::NotElf)?;
        let Some(mut notes) = notes else { continue };
        while let Some(note) = notes.next().map_err(ElfKernelError::NotElf)? {
            if note.name() == PVH_NOTE_NAME && note.n_type(endian).0 == PVH_NOTE_TYPE {
                return Ok(());
            }
        }
    }
    Err(ElfKernelError::NoPvhEntry)
}
