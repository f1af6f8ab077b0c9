//! A virtual machine of KVM: its memory, its interrupts, its doorbells.

use std::fs::OpenOptions;
use std::io;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::trial::into_kvm;
use crate::boot::layout;
use crate::memory::GuestRam;

/// What a host must be able to do besides running a guest, and what for.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::Irqchip, "interrupt controllers"),
    (Cap::Irqfd, "interrupts by descriptor"),
    (Cap::Ioeventfd, "doorbells by descriptor"),
    (Cap::UserMemory, "memory of ours"),
    (Cap::ImmediateExit, "leaving the guest at once"),
];

/// Why a virtual machine could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvmError {
    /// `/dev/kvm` could not be opened.
    #[error("open /dev/kvm")]
    Open(#[source] io::Error),
    /// The host's KVM is too old.
    #[error("this host's KVM has no {ability}")]
    Missing {
        /// What it lacks.
        ability: &'static str,
    },
    /// KVM refused.
    #[error("{step}")]
    Refused {
        /// What was asked of it.
        step: &'static str,
        /// What it answered.
        #[source]
        source: io::Error,
    },
}

/// Says what was asked of KVM when it refuses.
pub(crate) fn refused(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Refused {
        step,
        source: error.into(),
    }
}

/// A virtual machine without processors yet.
#[derive(Debug)]
pub(crate) struct KvmMachine {
    vm: VmFd,
    features: CpuId,
    // Last, so that it outlives the virtual machine that uses it.
    ram: GuestRam,
}

impl KvmMachine {
    /// Makes a virtual machine with this memory.
    pub(crate) fn new(ram: GuestRam) -> Result<Self, KvmError> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .map_err(KvmError::Open)?;
        let kvm = into_kvm(device);
        for (capability, ability) in NEEDED {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Missing { ability });
            }
        }
        let features = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("ask for the processor's features"))?;
        let vm = kvm
            .create_vm()
            .map_err(refused("create a virtual machine"))?;
        let tss = usize::try_from(layout::TSS).expect("it is below 4 GiB");
        vm.set_identity_map_address(layout::IDENTITY_MAP)
            .and_then(|()| vm.set_tss_address(tss))
            .map_err(refused("set the pages for real mode"))?;
        vm.create_irq_chip()
            .map_err(refused("create the interrupt controllers"))?;
        give_memory(&vm, &ram)?;
        Ok(Self { vm, features, ram })
    }

    pub(crate) const fn ram(&self) -> &GuestRam {
        &self.ram
    }

    pub(super) const fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Returns what the host's processor and KVM can do.
    pub(super) const fn features(&self) -> &CpuId {
        &self.features
    }

    /// Returns an event whose writing is the interrupt.
    pub(crate) fn interrupt(&self, number: u32) -> Result<EventFd, KvmError> {
        let event = event()?;
        self.vm
            .register_irqfd(&event, number)
            .map_err(refused("connect an interrupt"))?;
        Ok(event)
    }

    /// Returns an event that is written when the guest writes `value` to the register at
    /// `address`; the guest does not stop for it.
    pub(crate) fn doorbell(&self, address: u64, value: u32) -> Result<EventFd, KvmError> {
        let event = event()?;
        self.vm
            .register_ioevent(&event, &IoEventAddress::Mmio(address), value)
            .map_err(refused("connect a doorbell"))?;
        Ok(event)
    }
}

fn event() -> Result<EventFd, KvmError> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(|source| KvmError::Refused {
        step: "make an event",
        source,
    })
}

fn give_memory(vm: &VmFd, ram: &GuestRam) -> Result<(), KvmError> {
    for (slot, (address, host_address, size)) in ram.regions().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: u32::try_from(slot).expect("there are two at most"),
            flags: 0,
            guest_phys_addr: address.0,
            memory_size: size,
            userspace_addr: host_address,
        };
        // SAFETY: the range is one mapping of exactly this size, which `KvmMachine` keeps longer
        // than the virtual machine; nothing in this process holds a reference into it, so that
        // the guest may change it at any time.
        unsafe { vm.set_user_memory_region(region) }.map_err(refused("give it its memory"))?;
    }
    Ok(())
}
