//! What lies where in a guest's address space and among its interrupts.
//!
//! ```text
//!   GPA       0x6000  start information (PVH) or boot parameters (bzImage)
//!             0x8000  GDT            0x9000  page tables of the 64-bit boot protocol
//!           0x2_0000  the kernel's command line
//!           0xe_0000  ACPI tables    0xf_f000  the generation ID, up to 1 MiB
//!          0x10_0000  the kernel; the initial file system at the end of low memory
//!        0xd000_0000  registers of the virtio devices, 4 KiB each
//!        0xfec0_0000  IOAPIC         0xfee0_0000  local APICs
//! ```

/// The start information of PVH, or the boot parameters of a bzImage, one page.
pub(crate) const START_INFO: u64 = 0x6000;

/// The memory map and the list of modules that PVH's start information points to.
pub(crate) const START_TABLES: u64 = 0x7000;

/// The descriptor table that the processors start with.
pub(crate) const GDT: u64 = 0x8000;

/// Page tables for the 64-bit boot protocol, three pages.
pub(crate) const PAGE_TABLES: u64 = 0x9000;

/// Where the stack starts downwards; a kernel sets its own before it uses it.
pub(crate) const STACK_TOP: u64 = 0x1_0000;

/// The kernel's command line, which ends with a zero.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;

/// Bytes that the command line may have with its zero: what x86 kernels take
/// (Linux 6.12, arch/x86/include/asm/setup.h, `COMMAND_LINE_SIZE`).
pub(crate) const MAX_COMMAND_LINE_BYTES: usize = 2048;

/// The ACPI tables, in memory that kernels leave alone (ACPI 6.5 §5.2.5.1 has them find the first
/// table here, too).
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;

/// The generation ID: 8-byte aligned, in memory that no kernel takes for its own or for tables, and
/// in a page where nothing else is (Microsoft, "Virtual Machine Generation ID", 2012).
pub(crate) const GENERATION_ID: u64 = 0xf_f000;

/// Where low memory that a PC keeps for itself ends, and the kernel begins.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// Registers of the first virtio device.
pub(crate) const VIRTIO_REGISTERS: u64 = 0xd000_0000;

/// Bytes between the registers of one virtio device and those of the next.
pub(crate) const VIRTIO_REGISTERS_BYTES: u64 = 0x1000;

/// The I/O interrupt controller (Intel 82093AA data sheet, §3.1).
pub(crate) const IOAPIC: u32 = 0xfec0_0000;

/// The local interrupt controllers (Intel SDM volume 3, §11.4.1).
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;

/// Three pages that VT-x processors need for real mode, and one for its page table, below the
/// BIOS's place at the end of 4 GiB (KVM API documentation §4.35 and §4.37).
pub(crate) const TSS: u64 = 0xfffb_d000;

/// See [`TSS`].
pub(crate) const IDENTITY_MAP: u64 = 0xfffb_c000;

/// The serial port's registers, and its interrupt: a PC's COM1.
pub(crate) const SERIAL_PORT: u16 = 0x3f8;

/// See [`SERIAL_PORT`].
pub(crate) const SERIAL_INTERRUPT: u32 = 4;

/// ACPI's registers to sleep and to reset, one byte each (`devices::power`).
pub(crate) const SLEEP_CONTROL_PORT: u16 = 0x600;

/// See [`SLEEP_CONTROL_PORT`].
pub(crate) const SLEEP_STATUS_PORT: u16 = 0x601;

/// See [`SLEEP_CONTROL_PORT`].
pub(crate) const RESET_PORT: u16 = 0x602;

/// The power button's interrupt.
pub(crate) const POWER_BUTTON_INTERRUPT: u32 = 5;

/// The interrupt by which the guest learns that its generation ID has changed.
pub(crate) const GENERATION_INTERRUPT: u32 = 6;

/// The first virtio device's interrupt; the next ones follow. An IOAPIC has 24.
pub(crate) const FIRST_VIRTIO_INTERRUPT: u32 = 7;

/// Virtio devices that a machine can have: the IOAPIC's interrupts from the first one on.
pub(crate) const MAX_VIRTIO_DEVICES: usize = 24 - FIRST_VIRTIO_INTERRUPT as usize;
