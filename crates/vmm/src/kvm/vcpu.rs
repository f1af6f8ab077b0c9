//! A virtual processor: how it starts, and what it leaves the guest for.

use std::io;

use kvm_bindings::{CpuId, Msrs, kvm_fpu, kvm_msr_entry};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::machine::{KvmError, KvmMachine, refused};
use crate::boot::kernel::Entry;
use crate::boot::start;

// Leaves of CPUID that differ between processors: Intel SDM volume 2A, CPUID.
const LEAF_FEATURES: u32 = 0x1;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
/// AMD's extended APIC ID: AMD64 APM volume 3, appendix E.4.16.
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;
/// CPUID.1:EBX, bits 31 to 24: the initial APIC ID; 23 to 16: processors of the package.
const APIC_ID_SHIFT: u32 = 24;
const PROCESSORS_SHIFT: u32 = 16;
/// CPUID.1:ECX bit 24: the timer takes deadlines of the time stamp counter.
const FEATURE_TSC_DEADLINE: u32 = 1 << 24;
/// CPUID.1:ECX bit 31: there is a hypervisor.
const FEATURE_HYPERVISOR: u32 = 1 << 31;
/// CPUID.1:EDX bit 28: the package has several processors.
const FEATURE_SEVERAL: u32 = 1 << 28;

// Registers that firmware would set: Intel SDM volume 4, table 2-2.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// Memory types are in force, and memory is write-back (Intel SDM volume 3, §12.11.2.1).
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// The x87 control word and MXCSR after reset (Intel SDM volume 1, §8.1.5 and §10.2.3).
const FPU_CONTROL_WORD: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

// The local APIC's registers for its two inputs (Intel SDM volume 3, §11.5.1). At the first is a
// PC's old controller, which a hardware-reduced machine does not have: nobody sets up KVM's, so
// what it would pass on has the vectors of exceptions. At the second is the non-maskable interrupt.
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const DELIVERY_EXTERNAL_MASKED: u32 = 0x1_0700;
const DELIVERY_NMI: u32 = 0x400;

/// Why a processor left the guest.
#[derive(Debug)]
pub(crate) enum Exit<'a> {
    /// The guest reads from a port.
    PortRead(u16, &'a mut [u8]),
    /// The guest writes to a port.
    PortWrite(u16, &'a [u8]),
    /// The guest reads a device's register.
    MmioRead(u64, &'a mut [u8]),
    /// The guest writes a device's register.
    MmioWrite(u64, &'a [u8]),
    /// Somebody wants its thread to look around, or there is nothing to do.
    Interrupted,
    /// The guest has reset itself by a triple fault.
    Reset,
    /// KVM cannot go on: for people.
    Failed(String),
}

/// A virtual processor.
#[derive(Debug)]
pub(crate) struct Vcpu {
    fd: VcpuFd,
}

impl Vcpu {
    /// Makes the processor `index` of `count`. All but the first wait for it to start them.
    pub(crate) fn new(machine: &KvmMachine, index: u8, count: u8) -> Result<Self, KvmError> {
        let fd = machine
            .vm()
            .create_vcpu(index.into())
            .map_err(refused("create a processor"))?;
        let features = features(machine.features(), index, count);
        fd.set_cpuid2(&features)
            .map_err(refused("set a processor's features"))?;
        set_msrs(&fd)?;
        fd.set_fpu(&kvm_fpu {
            fcw: FPU_CONTROL_WORD,
            mxcsr: MXCSR,
            ..kvm_fpu::default()
        })
        .map_err(refused("set a processor's floating-point state"))?;
        set_local_interrupts(&fd)?;
        Ok(Self { fd })
    }

    /// Has the processor enter the kernel when it runs.
    pub(crate) fn enter(&self, entry: &Entry) -> Result<(), KvmError> {
        let step = "set the first processor's registers";
        let mut sregs = self.fd.get_sregs().map_err(refused(step))?;
        start::enter(entry, &mut sregs);
        self.fd.set_sregs(&sregs).map_err(refused(step))?;
        self.fd
            .set_regs(&start::registers(entry))
            .map_err(refused(step))
    }

    /// Runs the guest until it needs something.
    pub(crate) fn run(&mut self) -> Exit<'_> {
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => Exit::PortRead(port, data),
            Ok(VcpuExit::IoOut(port, data)) => Exit::PortWrite(port, data),
            Ok(VcpuExit::MmioRead(address, data)) => Exit::MmioRead(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => Exit::MmioWrite(address, data),
            Ok(VcpuExit::Shutdown) => Exit::Reset,
            Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => Exit::Interrupted,
            Ok(VcpuExit::InternalError) => Exit::Failed("KVM_EXIT_INTERNAL_ERROR".to_owned()),
            Ok(exit) => Exit::Failed(format!("{exit:?}")),
            Err(error) if is_interruption(error) => Exit::Interrupted,
            Err(error) => Exit::Failed(io::Error::from(error).to_string()),
        }
    }

    /// Returns what the processor was doing, for people.
    pub(crate) fn describe(&self) -> String {
        match self.fd.get_regs() {
            Ok(registers) => format!(
                "rip {:#x}, rsp {:#x}, rflags {:#x}",
                registers.rip, registers.rsp, registers.rflags
            ),
            Err(error) => format!("registers unknown: {}", io::Error::from(error)),
        }
    }
}

fn is_interruption(error: kvm_ioctls::Error) -> bool {
    matches!(error.errno(), libc::EINTR | libc::EAGAIN)
}

/// Returns what the guest's CPUID instruction says on this processor.
fn features(host: &CpuId, index: u8, count: u8) -> CpuId {
    let mut features = host.clone();
    let apic_id = u32::from(index);
    for entry in features.as_mut_slice() {
        match entry.function {
            LEAF_FEATURES => {
                entry.ecx |= FEATURE_HYPERVISOR | FEATURE_TSC_DEADLINE;
                entry.ebx &= 0x0000_ffff;
                entry.ebx |= apic_id << APIC_ID_SHIFT | u32::from(count) << PROCESSORS_SHIFT;
                if count > 1 {
                    entry.edx |= FEATURE_SEVERAL;
                }
            }
            LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => {
                entry.edx = apic_id;
                set_level(entry, count);
            }
            LEAF_AMD_TOPOLOGY => entry.eax = apic_id,
            _ => {}
        }
    }
    features
}

/// One thread to a core, all cores in one package (Intel SDM volume 2A, CPUID leaf 0BH).
fn set_level(entry: &mut kvm_bindings::kvm_cpuid_entry2, count: u8) {
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    let bits = u32::from(count).next_power_of_two().trailing_zeros();
    let (shift, processors, level) = match entry.index {
        0 => (0, 1, LEVEL_THREAD),
        1 => (bits, u32::from(count), LEVEL_CORE),
        _ => (0, 0, 0),
    };
    entry.eax = shift;
    entry.ebx = processors;
    entry.ecx = entry.index | level << 8;
}

fn set_msrs(fd: &VcpuFd) -> Result<(), KvmError> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    let entries = [
        entry(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
        entry(MSR_MTRR_DEFAULT_TYPE, MTRR_ENABLED_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&entries).expect("two entries are not too many");
    let step = "set a processor's model-specific registers";
    let count = fd.set_msrs(&msrs).map_err(refused(step))?;
    if count == entries.len() {
        Ok(())
    } else {
        Err(KvmError::Refused {
            step,
            source: io::ErrorKind::Unsupported.into(),
        })
    }
}

fn set_local_interrupts(fd: &VcpuFd) -> Result<(), KvmError> {
    let step = "set a processor's local interrupts";
    let mut apic = fd.get_lapic().map_err(refused(step))?;
    for (register, delivery) in [
        (APIC_LVT_LINT0, DELIVERY_EXTERNAL_MASKED),
        (APIC_LVT_LINT1, DELIVERY_NMI),
    ] {
        // The registers are kept as characters, whose sign says nothing.
        for (place, byte) in apic.regs[register..].iter_mut().zip(delivery.to_le_bytes()) {
            *place = byte.cast_signed();
        }
    }
    fd.set_lapic(&apic).map_err(refused(step))
}
