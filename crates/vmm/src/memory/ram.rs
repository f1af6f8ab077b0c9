//! Making the guest's memory.

use std::ffi::c_void;
use std::io;

use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap, MmapRegion,
};

use super::Memory;

/// Where device registers begin: 3 GiB, above which memory goes on at [`MMIO_GAP_END`].
pub(crate) const MMIO_GAP_START: u64 = 3 << 30;

/// Where they end: 4 GiB. The processors' own registers are the last things below.
pub(crate) const MMIO_GAP_END: u64 = 4 << 30;

/// Size of a page (Intel SDM volume 3, §4.5.4).
const PAGE_BYTES: u64 = 4096;

/// Size of the pages that processors and the host's kernel manage at once, where both can: a second
/// level entry of the page tables (Intel SDM volume 3, §4.5.4).
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The host gives no address space for it.
    #[error("map {size_bytes} bytes of memory for the guest")]
    Map {
        /// Its size.
        size_bytes: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be laid out.
    #[error("lay out {size_bytes} bytes of memory for the guest: {reason}")]
    Layout {
        /// Its size.
        size_bytes: u64,
        /// Why not.
        reason: String,
    },
}

/// The guest's memory.
#[derive(Debug)]
pub(crate) struct GuestRam {
    memory: Memory,
}

impl GuestRam {
    /// Makes memory of so many bytes, all zeros, none of it backed by the host's yet. It stays until
    /// the process ends, as the machine does.
    pub(crate) fn new(size_bytes: u64) -> Result<Self, MemoryError> {
        let map = |source: io::Error| MemoryError::Map { size_bytes, source };
        let layout = |reason: String| MemoryError::Layout { size_bytes, reason };
        let to_size =
            |bytes: u64| usize::try_from(bytes).map_err(|error| layout(error.to_string()));
        let size = to_size(size_bytes)?;
        let low_size = to_size(size_bytes.min(MMIO_GAP_START))?;
        let start = map_aligned(size).map_err(map)?;
        let mut regions = vec![region(start, low_size, 0)];
        if size > low_size {
            let high = start.wrapping_byte_add(low_size);
            regions.push(region(high, size - low_size, MMIO_GAP_END));
        }
        let regions: Result<Vec<_>, _> = regions.into_iter().collect();
        let regions = regions.map_err(|error| layout(error.to_string()))?;
        let memory = Memory::from_regions(regions).map_err(|error| layout(error.to_string()))?;
        Ok(Self { memory })
    }

    /// Returns the memory.
    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Returns the regions: where each is for the guest and for us, and how long it is.
    pub(crate) fn regions(&self) -> impl Iterator<Item = (GuestAddress, u64, u64)> + '_ {
        self.memory.iter().map(|region| {
            let host = region.as_ptr().addr() as u64;
            (region.start_addr(), host, region.len())
        })
    }

    /// Returns where memory below the gap ends.
    pub(crate) fn low_end(&self) -> u64 {
        let first = self.memory.iter().next();
        first.map_or(0, |region| region.start_addr().0 + region.len())
    }
}

/// Gives the host back what is behind a range of guest memory; it reads as zeros again. What lies
/// outside of the memory is skipped, and so are parts of pages.
pub(crate) fn discard(memory: &Memory, address: GuestAddress, length: u64) -> io::Result<()> {
    let Some(region) = memory.find_region(address) else {
        return Ok(());
    };
    let offset = address.0 - region.start_addr().0;
    let end = offset.saturating_add(length).min(region.len());
    let start = offset.next_multiple_of(PAGE_BYTES);
    let end = end - end % PAGE_BYTES;
    let (Ok(skipped), Some(Ok(length))) = (
        usize::try_from(start),
        end.checked_sub(start).map(usize::try_from),
    ) else {
        return Ok(());
    };
    let start = region.as_ptr().wrapping_add(skipped).cast();
    // SAFETY: the range is within the mapping of the region, which is never unmapped. It is the
    // guest's memory: nothing in this process holds a reference into it or relies on what is there.
    Ok(unsafe { rustix::mm::madvise(start, length, Advice::LinuxDontNeed) }?)
}

/// Maps memory that begins at a multiple of a huge page's size, as the guest's does: where addresses
/// of guest and host differ by less than that, neither's huge pages are any use to the other.
fn map_aligned(size: usize) -> io::Result<*mut c_void> {
    let with_room = size
        .checked_add(HUGE_PAGE_BYTES)
        .ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping at an address that the kernel chooses replaces none.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            with_room,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }?;
    let before = start.addr().next_multiple_of(HUGE_PAGE_BYTES) - start.addr();
    let start = start.wrapping_byte_add(before);
    // A host without huge pages refuses this, which is no reason to be without memory. What a
    // crash of this process leaves is nobody's business.
    for advice in [Advice::LinuxHugepage, Advice::LinuxDontDump] {
        // SAFETY: the range is within the mapping just made, whose content the advice leaves alone.
        let _without = unsafe { rustix::mm::madvise(start, size, advice) };
    }
    Ok(start)
}

fn region(
    start: *mut c_void,
    size: usize,
    address: u64,
) -> Result<GuestRegionMmap, MmapRegionError> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_ANONYMOUS;
    // SAFETY: the range is part of a mapping with this protection and these flags; it is never
    // unmapped, and no other region has any of it.
    let mapping = unsafe { MmapRegion::build_raw(start.cast(), size, protection, flags) }?;
    GuestRegionMmap::new(mapping, GuestAddress(address)).ok_or(MmapRegionError::InvalidOffsetLength)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes as _;

    use super::*;

    #[test]
    fn memory_goes_on_above_the_registers() {
        let ram = GuestRam::new(MMIO_GAP_START + (1 << 20)).unwrap();
        let regions: Vec<_> = ram
            .regions()
            .map(|(start, _, length)| (start.0, length))
            .collect();
        assert_eq!(regions, [(0, MMIO_GAP_START), (MMIO_GAP_END, 1 << 20)]);
        assert_eq!(ram.low_end(), MMIO_GAP_START);
    }

    #[test]
    fn huge_pages_of_guest_and_host_are_the_same() {
        let ram = GuestRam::new(MMIO_GAP_START + (1 << 20)).unwrap();
        for (address, host_address, _) in ram.regions() {
            assert_eq!((address.0 ^ host_address) % (2 << 20), 0);
        }
    }

    #[test]
    fn discarded_memory_reads_as_zeros() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let address = GuestAddress(0x4000);
        ram.memory().write_obj(0x55_u8, address).unwrap();
        discard(ram.memory(), address, 0x1000).unwrap();
        assert_eq!(ram.memory().read_obj::<u8>(address).unwrap(), 0);
        // Beyond the end: as much as there is.
        discard(ram.memory(), GuestAddress(0xf_f000), 1 << 30).unwrap();
        discard(ram.memory(), GuestAddress(1 << 40), 1).unwrap();
    }
}
