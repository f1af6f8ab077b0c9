//! How the kernel is entered: what it finds in memory, and in the first processor's registers.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE,
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::kernel::{Entry, Loaded};
use super::layout;
use crate::kvm::x86::{
    CR0_ET, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, PAGE_LARGE, PAGE_PRESENT, PAGE_WRITABLE,
    RFLAGS, TYPE_CODE_READABLE, TYPE_DATA_WRITABLE,
};
use crate::memory::GuestRam;

const PAGE_PRESENT_WRITABLE: u64 = PAGE_PRESENT | PAGE_WRITABLE;

/// Code and data from 0 to 4 GiB, as descriptors (Intel SDM volume 3, §3.4.5): null, null, 64-bit
/// code, data, 32-bit code. The boot protocol wants code at 0x10 and data at 0x18 (Linux 6.12,
/// Documentation/arch/x86/boot.rst).
const GDT_ENTRIES: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
];
const CODE_64_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const CODE_32_SELECTOR: u16 = 0x20;

/// A busy 32-bit task state segment: Intel SDM volume 3, §3.5.
const TYPE_TSS_BUSY: u8 = 0xb;

/// Version of PVH's start information that has a memory map (xen.git,
/// xen/include/public/arch-x86/hvm/start_info.h).
const START_INFO_VERSION: u32 = 1;

/// A boot loader that has no number of its own (Linux 6.12,
/// Documentation/arch/x86/boot.rst, `type_of_loader`).
const LOADER_UNDEFINED: u8 = 0xff;

/// A range of addresses and whether the kernel may use it as memory.
struct Range {
    start: u64,
    size: u64,
    is_usable: bool,
}

/// Writes what the kernel is told at its start.
///
/// # Errors
///
/// When the memory is smaller than where it goes.
pub(crate) fn write(ram: &GuestRam, loaded: &Loaded, rsdp: u64) -> Result<(), GuestMemoryError> {
    for (index, entry) in GDT_ENTRIES.iter().enumerate() {
        ram.memory()
            .write_obj(*entry, GuestAddress(layout::GDT + 8 * index as u64))?;
    }
    match &loaded.entry {
        Entry::Pvh(_) => write_start_info(ram, loaded, rsdp),
        Entry::Linux64(_, header) => {
            write_page_tables(ram)?;
            write_boot_params(ram, loaded, *header, rsdp)
        }
    }
}

fn ranges(ram: &GuestRam) -> Vec<Range> {
    let mut ranges = vec![
        Range {
            start: 0,
            size: layout::ACPI_TABLES,
            is_usable: true,
        },
        Range {
            start: layout::ACPI_TABLES,
            size: layout::HIGH_MEMORY - layout::ACPI_TABLES,
            is_usable: false,
        },
    ];
    ranges.extend(ram.regions().map(|(start, _, length)| {
        let start = start.0.max(layout::HIGH_MEMORY);
        let end = if start == layout::HIGH_MEMORY {
            length
        } else {
            start + length
        };
        Range {
            start,
            size: end - start,
            is_usable: true,
        }
    }));
    ranges
}

fn write_start_info(ram: &GuestRam, loaded: &Loaded, rsdp: u64) -> Result<(), GuestMemoryError> {
    let memory = ram.memory();
    let (initramfs, initramfs_bytes) = loaded.initramfs;
    let module = hvm_modlist_entry {
        paddr: initramfs,
        size: initramfs_bytes,
        ..hvm_modlist_entry::default()
    };
    let mut next = GuestAddress(layout::START_TABLES);
    memory.write_obj(module, next)?;
    next.0 += size_of::<hvm_modlist_entry>() as u64;
    let map = next;
    let ranges = ranges(ram);
    for range in &ranges {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: if range.is_usable {
                XEN_HVM_MEMMAP_TYPE_RAM
            } else {
                XEN_HVM_MEMMAP_TYPE_RESERVED
            },
            reserved: 0,
        };
        memory.write_obj(entry, next)?;
        next.0 += size_of::<hvm_memmap_table_entry>() as u64;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: START_INFO_VERSION,
        nr_modules: 1,
        modlist_paddr: layout::START_TABLES,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: rsdp,
        memmap_paddr: map.0,
        memmap_entries: u32::try_from(ranges.len()).expect("a handful"),
        ..hvm_start_info::default()
    };
    memory.write_obj(info, GuestAddress(layout::START_INFO))
}

fn write_boot_params(
    ram: &GuestRam,
    loaded: &Loaded,
    header: linux_loader::loader::bootparam::setup_header,
    rsdp: u64,
) -> Result<(), GuestMemoryError> {
    let low = |address: u64| u32::try_from(address).expect("it is below the registers");
    let mut parameters = boot_params {
        hdr: header,
        acpi_rsdp_addr: rsdp,
        ..boot_params::default()
    };
    parameters.hdr.type_of_loader = LOADER_UNDEFINED;
    parameters.hdr.cmd_line_ptr = low(layout::COMMAND_LINE);
    parameters.hdr.ramdisk_image = low(loaded.initramfs.0);
    parameters.hdr.ramdisk_size = low(loaded.initramfs.1);
    let ranges = ranges(ram);
    parameters.e820_entries = u8::try_from(ranges.len()).expect("a handful");
    for (entry, range) in parameters.e820_table.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.size,
            // The types of the E820 map are those of PVH's (ACPI 6.5 §15.4).
            r#type: if range.is_usable { 1 } else { 2 },
        };
    }
    ram.memory()
        .write_obj(parameters, GuestAddress(layout::START_INFO))
}

/// Maps the first GiB to itself, as the 64-bit boot protocol wants it.
fn write_page_tables(ram: &GuestRam) -> Result<(), GuestMemoryError> {
    const TABLE_BYTES: u64 = 4096;
    const LARGE_PAGE_BYTES: u64 = 2 << 20;
    let memory = ram.memory();
    let (pml4, pdpt) = (layout::PAGE_TABLES, layout::PAGE_TABLES + TABLE_BYTES);
    let directory = pdpt + TABLE_BYTES;
    memory.write_obj(pdpt | PAGE_PRESENT_WRITABLE, GuestAddress(pml4))?;
    memory.write_obj(directory | PAGE_PRESENT_WRITABLE, GuestAddress(pdpt))?;
    for index in 0..TABLE_BYTES / 8 {
        let entry = (index * LARGE_PAGE_BYTES) | PAGE_PRESENT_WRITABLE | PAGE_LARGE;
        memory.write_obj(entry, GuestAddress(directory + 8 * index))?;
    }
    Ok(())
}

/// Returns the registers with which the first processor enters the kernel.
pub(crate) fn registers(entry: &Entry) -> kvm_regs {
    let registers = kvm_regs {
        rflags: RFLAGS,
        rsp: layout::STACK_TOP,
        ..kvm_regs::default()
    };
    match entry {
        Entry::Pvh(address) => kvm_regs {
            rip: *address,
            rbx: layout::START_INFO,
            ..registers
        },
        Entry::Linux64(address, _) => kvm_regs {
            rip: *address,
            rsi: layout::START_INFO,
            ..registers
        },
    }
}

/// Puts the first processor into the mode in which the kernel is entered.
pub(crate) fn enter(entry: &Entry, sregs: &mut kvm_sregs) {
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: DATA_SELECTOR,
        type_: TYPE_DATA_WRITABLE,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let is_64_bit = matches!(entry, Entry::Linux64(..));
    sregs.cs = kvm_segment {
        selector: if is_64_bit {
            CODE_64_SELECTOR
        } else {
            CODE_32_SELECTOR
        },
        type_: TYPE_CODE_READABLE,
        db: u8::from(!is_64_bit),
        l: u8::from(is_64_bit),
        ..data
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        limit: 0x67,
        type_: TYPE_TSS_BUSY,
        present: 1,
        ..kvm_segment::default()
    };
    sregs.gdt = kvm_dtable {
        base: layout::GDT,
        limit: u16::try_from(size_of_val(&GDT_ENTRIES) - 1).expect("a few entries"),
        ..kvm_dtable::default()
    };
    sregs.idt = kvm_dtable::default();
    sregs.cr0 = CR0_PE | CR0_ET;
    if is_64_bit {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = layout::PAGE_TABLES;
        sregs.cr4 |= CR4_PAE;
        sregs.efer |= EFER_LME | EFER_LMA;
    }
}
