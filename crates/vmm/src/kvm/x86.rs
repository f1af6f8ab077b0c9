//! Names of the processor's bits that more than one machine here is started with.

// Control registers and EFER: Intel SDM volume 3, §2.5 and §2.2.1.
pub(crate) const CR0_PE: u64 = 1 << 0;
pub(crate) const CR0_ET: u64 = 1 << 4;
pub(crate) const CR0_PG: u64 = 1 << 31;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;

/// RFLAGS bit 1 is always set (Intel SDM volume 1, §3.4.3); interrupts are off.
pub(crate) const RFLAGS: u64 = 1 << 1;

// Page table entries: Intel SDM volume 3, tables 4-15 to 4-18.
pub(crate) const PAGE_PRESENT: u64 = 1 << 0;
pub(crate) const PAGE_WRITABLE: u64 = 1 << 1;
pub(crate) const PAGE_LARGE: u64 = 1 << 7;

// Segment types, accessed bit set: Intel SDM volume 3, §3.4.5.1.
pub(crate) const TYPE_DATA_WRITABLE: u8 = 0x3;
pub(crate) const TYPE_CODE_READABLE: u8 = 0xb;
