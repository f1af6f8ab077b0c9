//! Making the guest's memory.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, MemfdFlags};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap,
    MmapRegion,
};

use super::Memory;

/// Where device registers begin: 3 GiB, above which memory goes on at [`MMIO_GAP_END`].
pub(crate) const MMIO_GAP_START: u64 = 3 << 30;

/// Where they end: 4 GiB. The processors' own registers are the last things below.
pub(crate) const MMIO_GAP_END: u64 = 4 << 30;

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The memory file could not be made.
    #[error("make a memory file of {size_bytes} bytes")]
    File {
        /// Its size.
        size_bytes: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The memory file could not be mapped.
    #[error("map the guest's memory: {reason}")]
    Map {
        /// Why not.
        reason: String,
    },
}

/// The guest's memory and the file that is behind it.
#[derive(Debug)]
pub(crate) struct GuestRam {
    memory: Memory,
}

impl GuestRam {
    /// Makes memory of so many bytes, all zeros, none of it backed by the host's yet.
    pub(crate) fn new(size_bytes: u64) -> Result<Self, MemoryError> {
        let file =
            memory_file(size_bytes).map_err(|source| MemoryError::File { size_bytes, source })?;
        let map = |reason: String| MemoryError::Map { reason };
        let low_bytes = size_bytes.min(MMIO_GAP_START);
        let mut regions = vec![region(&file, 0, 0, low_bytes)?];
        if size_bytes > low_bytes {
            let high_bytes = size_bytes - low_bytes;
            regions.push(region(&file, MMIO_GAP_END, low_bytes, high_bytes)?);
        }
        let memory = Memory::from_regions(regions).map_err(|error| map(error.to_string()))?;
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
/// outside of the memory is skipped.
pub(crate) fn discard(memory: &Memory, address: GuestAddress, length: u64) -> io::Result<()> {
    let Some(region) = memory.find_region(address) else {
        return Ok(());
    };
    let offset = address.0 - region.start_addr().0;
    let length = length.min(region.len() - offset);
    let Some(file) = region.file_offset() else {
        return Ok(());
    };
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(
        file.file(),
        flags,
        file.start() + offset,
        length,
    )?)
}

fn memory_file(size_bytes: u64) -> io::Result<File> {
    let file = rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, size_bytes)?;
    Ok(file.into())
}

fn region(
    file: &File,
    address: u64,
    offset: u64,
    size_bytes: u64,
) -> Result<GuestRegionMmap, MemoryError> {
    let map = |reason: String| MemoryError::Map { reason };
    let file = file.try_clone().map_err(|error| map(error.to_string()))?;
    let size = usize::try_from(size_bytes).map_err(|error| map(error.to_string()))?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, offset), size)
        .map_err(|error| map(error.to_string()))?;
    GuestRegionMmap::new(mapping, GuestAddress(address))
        .ok_or_else(|| map(format!("{size_bytes} bytes at {address:#x} overflow")))
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
