//! Memory and start state of the trial machine: 64-bit mode at ring 0, as a kernel runs.
//!
//! ```text
//!   GPA   0x1000  PML4 -> 0x2000 PDPT -> 0x3000 PD -> one 2 MiB page, GPA 0 mapped to itself
//!         0x4000  the trial code            0x5000  its data
//!         0x6000  GDT                       0x7000  IDT
//!         0x9000  stack, downwards
//!       0x200000  end of memory
//! ```
//!
//! Real mode would need less set-up, but processors without "unrestricted guest" have KVM
//! emulate real mode in software (`emulate_invalid_guest_state`, Linux 6.12
//! arch/x86/kvm/vmx/vmx.c), so its speed says nothing of the host.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::x86::{
    CR0_ET, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, PAGE_LARGE, PAGE_PRESENT, PAGE_WRITABLE,
    RFLAGS, TYPE_CODE_READABLE, TYPE_DATA_WRITABLE,
};
use crate::sys::{EntryPoint, TrialCode};

/// Size of the trial machine's memory: the one page that its page tables map.
pub(super) const MEMORY_BYTES: usize = 2 << 20;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const DATA: u64 = 0x5000;
const GDT: u64 = 0x6000;
const IDT: u64 = 0x7000;
const STACK_TOP: u64 = 0x9000;

// Control registers: Intel SDM volume 3, §2.5.
const CR0_MP: u64 = 1 << 1;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;

const CODE_SELECTOR: u16 = 1 << 3;
const DATA_SELECTOR: u16 = 2 << 3;
/// The same two segments as the descriptors that IRETQ loads again: present, ring 0, 4 KiB
/// granularity, 64-bit code and 32-bit data (Intel SDM volume 3, §3.4.5).
const GDT_ENTRIES: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Vector of the breakpoint exception (Intel SDM volume 3, §6.15).
const BREAKPOINT_VECTOR: u64 = 3;
/// Size of a 64-bit gate, whose type and attributes are in byte 5 (Intel SDM volume 3, §6.14.1).
const GATE_BYTES: u64 = 16;
/// Present, ring 0, 64-bit interrupt gate.
const GATE_INTERRUPT: u64 = 0x8e;

/// What the instruction trial finds in its data, puts there, and adds in its handler: values with
/// all bytes different, so that a wrong width or order shows.
const EXCHANGE_OLD: [u64; 2] = [0x0011_2233_4455_6677, 0x8899_aabb_ccdd_eeff];
const EXCHANGE_NEW: [u64; 2] = [0x0123_4567_89ab_cdef, 0x1032_5476_98ba_dcfe];
const HANDLER_ADDEND: u64 = 0x0102_0304;

/// What the instruction trial computes when every instruction does what it should.
pub(super) const INSTRUCTIONS_RESULT: u64 = EXCHANGE_NEW[0] + HANDLER_ADDEND;

/// Fills the memory that both trial programs start from.
pub(super) fn write_memory(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let table = PAGE_PRESENT | PAGE_WRITABLE;
    write_words(memory, PML4, &[PDPT | table])?;
    write_words(memory, PDPT, &[PAGE_DIRECTORY | table])?;
    write_words(memory, PAGE_DIRECTORY, &[table | PAGE_LARGE])?;
    write_words(memory, GDT, &GDT_ENTRIES)?;
    let handler = CODE + TrialCode::offset(EntryPoint::BreakpointHandler);
    write_words(
        memory,
        IDT + BREAKPOINT_VECTOR * GATE_BYTES,
        &[interrupt_gate(handler), 0],
    )?;
    write_words(memory, DATA, &EXCHANGE_OLD)?;
    memory.write_slice(TrialCode::bytes(), GuestAddress(CODE))
}

/// Returns the low half of the gate to `handler`, which lies below 4 GiB.
fn interrupt_gate(handler: u64) -> u64 {
    let offset_low = handler & 0xffff;
    let offset_middle = (handler >> 16) & 0xffff;
    offset_low | u64::from(CODE_SELECTOR) << 16 | GATE_INTERRUPT << 40 | offset_middle << 48
}

fn write_words(
    memory: &GuestMemoryMmap,
    address: u64,
    words: &[u64],
) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(address))
}

/// Puts a processor that was just created into 64-bit mode at ring 0.
pub(super) fn enter_long_mode(sregs: &mut kvm_sregs) {
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
    sregs.cs = kvm_segment {
        selector: CODE_SELECTOR,
        type_: TYPE_CODE_READABLE,
        db: 0,
        l: 1,
        ..data
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.gdt = kvm_dtable {
        base: GDT,
        limit: 0x17,
        ..kvm_dtable::default()
    };
    sregs.idt = kvm_dtable {
        base: IDT,
        limit: 0xfff,
        ..kvm_dtable::default()
    };
    sregs.cr3 = PML4;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    sregs.efer = EFER_LME | EFER_LMA;
}

/// Returns the registers with which the loop starts.
pub(super) fn loop_registers(iterations: u64) -> kvm_regs {
    kvm_regs {
        rdi: iterations,
        ..registers_at(EntryPoint::Loop)
    }
}

/// Returns the registers with which the instruction trial starts.
pub(super) fn instruction_registers() -> kvm_regs {
    kvm_regs {
        rsi: DATA,
        rax: EXCHANGE_OLD[0],
        rdx: EXCHANGE_OLD[1],
        rbx: EXCHANGE_NEW[0],
        rcx: EXCHANGE_NEW[1],
        r9: HANDLER_ADDEND,
        ..registers_at(EntryPoint::Instructions)
    }
}

fn registers_at(entry: EntryPoint) -> kvm_regs {
    kvm_regs {
        rip: CODE + TrialCode::offset(entry),
        rsp: STACK_TOP,
        rflags: RFLAGS,
        ..kvm_regs::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupt_gate_splits_the_handler_address_around_the_selector() {
        assert_eq!(interrupt_gate(0x1234_5678), 0x1234_8e00_0008_5678);
    }

    #[test]
    fn trial_code_fits_its_page() {
        assert!(TrialCode::bytes().len() as u64 <= DATA - CODE);
    }

    #[test]
    fn memory_image_fits_the_trial_machine() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
            .expect("2 MiB can be mapped");
        write_memory(&memory).expect("every address lies in the 2 MiB");
        let first: u64 = memory
            .read_obj(GuestAddress(PML4))
            .expect("the table lies in memory");
        assert_eq!(first, PDPT | PAGE_PRESENT | PAGE_WRITABLE);
    }
}
