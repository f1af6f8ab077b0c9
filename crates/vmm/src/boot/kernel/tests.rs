use std::fs;

use super::*;

const MEMORY_MIB: u64 = 16;

/// Where the kernels below are loaded and entered.
const START: u64 = layout::HIGH_MEMORY;

/// EM_AARCH64 (elf(5)).
const ELF_AARCH64: u16 = 183;

/// Returns an ELF file of one page that takes `memory_bytes`, with a PVH entry.
fn elf_kernel(machine: u16, memory_bytes: u64) -> Vec<u8> {
    let note = [4_u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_0000].map(u32::to_le_bytes);
    let mut bytes = vec![0; 0x3000];
    let mut put = |offset: usize, value: &[u8]| {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    };
    put(0, b"\x7fELF\x02\x01\x01");
    put(ELF_MACHINE, &machine.to_le_bytes());
    put(24, &START.to_le_bytes()); // e_entry
    put(32, &64_u64.to_le_bytes()); // e_phoff
    put(54, &56_u16.to_le_bytes()); // e_phentsize
    put(56, &2_u16.to_le_bytes()); // e_phnum
    // PT_LOAD, then PT_NOTE: type, offset, addresses, sizes.
    put(64, &1_u32.to_le_bytes());
    put(64 + 8, &0x2000_u64.to_le_bytes());
    put(64 + 24, &START.to_le_bytes());
    put(64 + 32, &0x1000_u64.to_le_bytes());
    put(64 + 40, &memory_bytes.to_le_bytes());
    put(120, &4_u32.to_le_bytes());
    put(120 + 8, &0x1000_u64.to_le_bytes());
    put(120 + 32, &20_u64.to_le_bytes());
    put(0x1000, &note.concat());
    bytes
}

/// Returns a bzImage of one page, which is 64-bit when `load_flags` say so.
fn bzimage(load_flags: u16) -> Vec<u8> {
    let mut bytes = vec![0; 1024 + 4096];
    let mut put = |offset: usize, value: &[u8]| {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    };
    put(0x1f1, &[1]); // setup_sects
    put(0x1f4, &(4096_u32 / 16).to_le_bytes()); // syssize
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes()); // version
    put(0x211, &[1]); // loadflags: LOADED_HIGH
    put(0x214, &0x10_0000_u32.to_le_bytes()); // code32_start
    put(0x236, &load_flags.to_le_bytes());
    put(0x260, &0x10_000_u32.to_le_bytes()); // init_size
    bytes
}

/// Loads a kernel of these bytes, with an initial file system of so many.
fn load_bytes(kernel: &[u8], initramfs_bytes: u64) -> Result<Loaded, LoadError> {
    let directory = tempfile::tempdir().unwrap();
    let (path, initramfs) = (
        directory.path().join("kernel"),
        directory.path().join("initramfs"),
    );
    fs::write(&path, kernel).unwrap();
    File::create(&initramfs)
        .unwrap()
        .set_len(initramfs_bytes)
        .unwrap();
    let ram = GuestRam::new(MEMORY_MIB << 20).unwrap();
    load(&ram, &path, &initramfs, "console=ttyS0")
}

/// Returns why a kernel of these bytes is refused.
fn refusal(kernel: &[u8]) -> String {
    load_bytes(kernel, 16).unwrap_err().to_string()
}

#[test]
fn kernels_are_entered_where_they_say_and_initramfs_is_at_the_end() {
    let loaded = load_bytes(&elf_kernel(ELF_X86_64, 0x1000), 0x1800).unwrap();
    assert!(matches!(loaded.entry, Entry::Pvh(START)), "{loaded:?}");
    assert_eq!(loaded.initramfs, ((MEMORY_MIB << 20) - 0x2000, 0x1800));
    let loaded = load_bytes(&bzimage(1), 16).unwrap();
    assert!(
        matches!(loaded.entry, Entry::Linux64(entry, _) if entry == START + 0x200),
        "{loaded:?}"
    );
}

#[test]
fn file_that_is_no_kernel_is_refused_with_what_it_is() {
    for (kernel, words) in [
        (vec![], "cut short"),
        (b"#!/bin/sh\nexit\n".repeat(100), "no kernel"),
        (elf_kernel(ELF_AARCH64, 0x1000), "another processor"),
        (bzimage(0), "32-bit x86"),
        ([vec![0; 56], b"ARM\x64".repeat(2)].concat(), "64-bit ARM"),
    ] {
        let refusal = refusal(&kernel);
        assert!(refusal.contains(words), "{refusal}");
        assert!(refusal.contains("/kernel"), "{refusal}");
    }
    let mut narrow = elf_kernel(ELF_X86_64, 0x1000);
    narrow[elf::EI_CLASS] = 1;
    assert!(refusal(&narrow).contains("another processor"));
    let mut elsewhere = elf_kernel(ELF_X86_64, 0x1000);
    // The entry is the last thing of the note.
    elsewhere[0x1010..0x1014].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    assert!(refusal(&elsewhere).contains("nothing is at its entry, 0x200000"));
}

#[test]
fn kernel_that_was_cut_is_refused_wherever_the_cut_is() {
    for whole in [elf_kernel(ELF_X86_64, 0x1000), bzimage(1)] {
        for length in [3, 100, 0x250, 0x1010, whole.len() - 1] {
            let length = length.min(whole.len() - 1);
            let refusal = refusal(&whole[..length]);
            assert!(refusal.contains("no kernel"), "{length}: {refusal}");
        }
    }
    assert!(refusal(&bzimage(1)[..5000]).contains("5000 of 5120 bytes"));
}

#[test]
fn what_does_not_fit_into_memory_is_named_with_its_size_and_what_to_do() {
    let kernel = refusal(&elf_kernel(ELF_X86_64, 20 << 20));
    let expected = "of 20480 KiB does not fit into memory of 16 MiB: give it more";
    assert!(kernel.contains(expected), "{kernel}");
    for initramfs_bytes in [(MEMORY_MIB << 20) - 0x10_0000, MEMORY_MIB << 20, 1 << 40] {
        let error = load_bytes(&elf_kernel(ELF_X86_64, 0x1000), initramfs_bytes).unwrap_err();
        assert!(
            matches!(&error, LoadError::TooLarge { path, .. } if path.ends_with("initramfs")),
            "{error}"
        );
    }
}

#[test]
fn directories_pipes_and_missing_files_are_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    let ram = GuestRam::new(MEMORY_MIB << 20).unwrap();
    for path in [directory.path(), &pipe, &directory.path().join("missing")] {
        let error = load_kernel(&ram, path).unwrap_err();
        assert!(
            matches!(&error, LoadError::Read { path: named, .. } if named == path),
            "{error}"
        );
    }
}
