//! The VM generation ID: a number that is another one whenever the guest is another machine than it
//! was, because it goes on from a copy of its memory (Microsoft, "Virtual Machine Generation ID",
//! 2012). A guest that learns of it makes its random numbers anew.
//!
//! The number is in memory that the kernel leaves alone, at an address that the ACPI tables tell;
//! an interrupt says that it has changed.

use std::io;

use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::layout::GENERATION_ID;
use crate::memory::Memory;

/// Bytes of the number.
pub(crate) const GENERATION_ID_BYTES: usize = 16;

/// The generation ID of a machine.
#[derive(Debug)]
pub(crate) struct GenerationId {
    memory: Memory,
    changed: EventFd,
}

impl GenerationId {
    /// Gives the machine of this memory its first number. `changed` is the interrupt of the next
    /// ones.
    ///
    /// # Errors
    ///
    /// When the host has no random numbers, or the machine no memory for it.
    pub(crate) fn new(memory: Memory, changed: EventFd) -> io::Result<Self> {
        let generation = Self { memory, changed };
        generation.write()?;
        Ok(generation)
    }

    /// Gives the machine another number, and tells the guest.
    ///
    /// # Errors
    ///
    /// When the host has no random numbers.
    pub(crate) fn renew(&self) -> io::Result<()> {
        self.write()?;
        self.changed.write(1)
    }

    fn write(&self) -> io::Result<()> {
        let mut id = [0; GENERATION_ID_BYTES];
        // So few bytes come whole (getrandom(2)).
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        self.memory
            .write_slice(&id, GuestAddress(GENERATION_ID))
            .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(memory: &Memory) -> [u8; GENERATION_ID_BYTES] {
        let mut id = [0; GENERATION_ID_BYTES];
        memory
            .read_slice(&mut id, GuestAddress(GENERATION_ID))
            .unwrap();
        id
    }

    #[test]
    fn every_start_and_every_renewal_is_another_number_and_only_renewals_are_told() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let changed = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let generation = GenerationId::new(memory.clone(), changed.try_clone().unwrap()).unwrap();
        let first = id(&memory);
        assert_ne!(first, [0; GENERATION_ID_BYTES]);
        assert!(changed.read().is_err(), "nothing has changed yet");
        generation.renew().unwrap();
        assert_ne!(id(&memory), first);
        assert_eq!(changed.read().unwrap(), 1);

        let second = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let _second = GenerationId::new(second.clone(), changed).unwrap();
        assert_ne!(id(&second), first);
    }
}
