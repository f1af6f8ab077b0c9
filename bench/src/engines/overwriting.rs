//! What earlier machines leave in the memory of an emulated host.
//!
//! A machine that gets the memory where an earlier one was takes up to 0.4 s longer to load its kernel
//! there, whether it is ours or QEMU's. An emulator keeps translations of the code that it has executed,
//! and drops them when the memory with the code is written to: most likely these are what it pays for.
//! A host that is not emulated has none.

use std::hint::black_box;

/// Bytes that are overwritten: what is free longest is used last, and no machine that is measured
/// uses half as much.
const BYTES: usize = 256 * 1024 * 1024;

/// Bytes of a page.
const PAGE_BYTES: usize = 4096;

/// Overwrites the memory that was freed last, which is used next, and frees it again.
pub(super) fn overwrite_free_memory() {
    let mut memory = vec![0_u8; BYTES];
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    // Otherwise the compiler may leave it all out.
    black_box(&memory);
}
