//! A kernel's file and an initial file system's: cut, damaged, or something else altogether.
//!
//! What is loaded lies in memory, the initial file system whole and behind the kernel; what is
//! refused has a reason.

use std::io::Write as _;

use smolvm_vmm::fuzzing;
use tempfile::NamedTempFile;

use crate::script::Script;

/// Memory of the machine: the least that one can have.
const MEMORY_BYTES: u64 = 16 << 20;

/// Where memory begins that kernels are loaded to.
const HIGH_MEMORY: u64 = 1 << 20;

/// Loads the files of an input: the length of the initial file system, its size in pages beyond
/// that, and then the kernel.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let (Some(pages), Some(content)) = (script.half(), script.bytes()) else {
        return;
    };
    let initramfs = file(content);
    // The rest of it are zeros, which take no place.
    let initramfs_bytes = content.len() as u64 + (u64::from(pages) << 12);
    let set = initramfs.as_file().set_len(initramfs_bytes);
    set.expect("zeros need no room");
    let kernel = file(script.rest());
    match fuzzing::load(kernel.path(), initramfs.path(), "quiet", MEMORY_BYTES) {
        Ok(loaded) => {
            let place = loaded.initramfs.clone();
            assert_eq!(place.end - place.start, initramfs_bytes);
            assert!(
                HIGH_MEMORY <= place.start && place.end <= MEMORY_BYTES,
                "{place:x?}"
            );
            assert!((HIGH_MEMORY..MEMORY_BYTES).contains(&loaded.entry));
            let mut found = vec![0; content.len()];
            assert!(loaded.read_memory(place.start, &mut found) && found == content);
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
}

fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(content).expect("room for it");
    file
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for kernel in [elf(), bzimage(), b"no kernel".to_vec()] {
        for pages in [0_u16, 3000, u16::MAX] {
            let initramfs = b"0707";
            let mut input = pages.to_le_bytes().to_vec();
            input.push(4);
            input.extend(initramfs);
            input.extend(&kernel);
            seeds.push(input);
        }
    }
    seeds
}

/// Returns an ELF file with a segment to load and a note of its PVH entry (System V ABI, chapters 4
/// and 5; Xen's public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).
fn elf() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // Type, machine, version; entry, program headers, section headers.
    file.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
    file.extend([HIGH_MEMORY, 64, 0].map(u64::to_le_bytes).concat());
    // Flags; sizes and counts of headers.
    file.extend([0; 4]);
    file.extend([64_u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    let mut segment = |kind: u32, offset: u64, size: u64, memory_size: u64| {
        file.extend([kind, 5].map(u32::to_le_bytes).concat());
        let words = [offset, HIGH_MEMORY, HIGH_MEMORY, size, memory_size, 4096];
        file.extend(words.map(u64::to_le_bytes).concat());
    };
    segment(1, 196, 16, 4096);
    segment(4, 176, 20, 20);
    // Lengths of name and description, type, name, entry.
    file.extend([4_u32, 4, 18].map(u32::to_le_bytes).concat());
    file.extend(b"Xen\0");
    file.extend(0x10_0000_u32.to_le_bytes());
    file.extend([0xf4; 16]);
    file
}

/// Returns a bzImage of the boot protocol 2.15 (Linux 6.12, Documentation/arch/x86/boot.rst).
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 1024 + 0x400];
    let mut put = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &[0x0f, 0x02]);
    // It is loaded high; where to; it has a 64-bit entry; the memory that it needs.
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x236, &[1]);
    put(0x260, &0x10_0000_u32.to_le_bytes());
    file
}
