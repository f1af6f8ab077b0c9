//! A machine of one processor and 2 MiB that runs the trial code and nothing else.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::time::Instant;

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use smolvm_protocol::probe::{ProbeFailure, ProbeStep};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::layout;
use crate::sys::{EXIT_PORT, TrialCode};

/// The machine, ready to run either program any number of times.
pub(crate) struct TrialMachine {
    vcpu: VcpuFd,
    _vm: VmFd,
    // Last, so that it outlives the virtual machine that uses it.
    memory: GuestMemoryMmap,
}

/// What the machine can be asked to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrialProgram {
    /// The loop whose time is taken.
    Loop {
        /// How often it goes round; at least once.
        iterations: u64,
    },
    /// Instructions that kernels use and that emulating hosts lack.
    Instructions,
}

impl TrialMachine {
    /// Creates the machine on `device`, which is an open `/dev/kvm`, telling `report` of each
    /// step before it is taken and of the API version once it is known.
    ///
    /// # Errors
    ///
    /// When the step reported last failed.
    pub(crate) fn create(
        device: File,
        report: &mut dyn FnMut(CreateEvent),
    ) -> Result<Self, ProbeFailure> {
        let kvm = into_kvm(device);
        report(CreateEvent::Step(ProbeStep::ApiVersion));
        let version = kvm.get_api_version();
        report(CreateEvent::ApiVersion(version));
        // KVM API documentation §4.1: refuse to run on any other version.
        if i64::from(version) != i64::from(KVM_API_VERSION) {
            return Err(ProbeFailure::UnsupportedApiVersion);
        }
        report(CreateEvent::Step(ProbeStep::CreateVm));
        let vm = kvm.create_vm().map_err(refused)?;
        // Before any processor (KVM API documentation §4.24).
        report(CreateEvent::Step(ProbeStep::CreateIrqchip));
        vm.create_irq_chip().map_err(refused)?;
        report(CreateEvent::Step(ProbeStep::SetMemory));
        let memory = map_memory(&vm)?;
        report(CreateEvent::Step(ProbeStep::CreateVcpu));
        let vcpu = vm.create_vcpu(0).map_err(refused)?;
        report(CreateEvent::Step(ProbeStep::SetRegisters));
        // Without the host's features the processor has no long mode.
        let features = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused)?;
        vcpu.set_cpuid2(&features).map_err(refused)?;
        Ok(Self {
            vcpu,
            _vm: vm,
            memory,
        })
    }

    /// Runs `program` from its start and returns how long the processor ran, in nanoseconds.
    ///
    /// # Errors
    ///
    /// When KVM refuses, when the guest leaves otherwise than through its exit port, and when
    /// its result is wrong.
    pub(crate) fn run(&mut self, program: TrialProgram) -> Result<u64, ProbeFailure> {
        let (registers, expected) = match program {
            TrialProgram::Loop { iterations } => (
                layout::loop_registers(iterations),
                TrialCode::loop_result(iterations),
            ),
            TrialProgram::Instructions => {
                (layout::instruction_registers(), layout::INSTRUCTIONS_RESULT)
            }
        };
        self.reset(&registers)?;
        let start = Instant::now();
        self.run_to_exit_port()?;
        let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let found = self.vcpu.get_regs().map_err(refused)?.rax;
        if found == expected {
            Ok(elapsed_ns)
        } else {
            Err(ProbeFailure::WrongResult { found, expected })
        }
    }

    /// Brings memory and processor to the state from which a program starts.
    fn reset(&mut self, registers: &kvm_regs) -> Result<(), ProbeFailure> {
        layout::write_memory(&self.memory).expect("the layout lies inside the machine's memory");
        let mut sregs = self.vcpu.get_sregs().map_err(refused)?;
        layout::enter_long_mode(&mut sregs);
        self.vcpu.set_sregs(&sregs).map_err(refused)?;
        self.vcpu.set_regs(registers).map_err(refused)
    }

    fn run_to_exit_port(&mut self) -> Result<(), ProbeFailure> {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(EXIT_PORT, _)) => return Ok(()),
                Ok(VcpuExit::Intr) => {}
                Ok(VcpuExit::InternalError) => return Err(self.internal_error()),
                Ok(exit) => return Err(unexpected(&exit)),
                // A signal, such as the one of a debugger; the guest goes on where it was.
                Err(error) if is_interrupted(error) => {}
                Err(error) => return Err(refused(error)),
            }
        }
    }

    fn internal_error(&mut self) -> ProbeFailure {
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this
        // member of the union (KVM API documentation, §5 `kvm_run`); any bits are a valid u32.
        let suberror = unsafe { self.vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
        ProbeFailure::UnexpectedExit {
            reason: "KVM_EXIT_INTERNAL_ERROR".to_owned(),
            detail: Some(u64::from(suberror)),
        }
    }
}

impl fmt::Debug for TrialMachine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TrialMachine")
            .finish_non_exhaustive()
    }
}

/// What creating a machine says while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CreateEvent {
    /// This step is taken next.
    Step(ProbeStep),
    /// KVM states this version of its API.
    ApiVersion(i32),
}

pub(super) fn into_kvm(device: File) -> Kvm {
    let descriptor = device.into_raw_fd();
    // SAFETY: the descriptor is open, and `into_raw_fd` has just given up its only owner.
    unsafe { Kvm::from_raw_fd(descriptor) }
}

fn map_memory(vm: &VmFd) -> Result<GuestMemoryMmap, ProbeFailure> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), layout::MEMORY_BYTES)])
        .map_err(|error| errno_failure(&io::Error::other(error)))?;
    let host_address = memory
        .get_host_address(GuestAddress(0))
        .expect("the first address of the only region is mapped");
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: layout::MEMORY_BYTES as u64,
        userspace_addr: host_address.addr() as u64,
    };
    // SAFETY: the range is one private anonymous mapping of exactly this size, which
    // `TrialMachine` keeps longer than the virtual machine; nothing in this process holds a
    // reference into it, so that the guest may change it at any time.
    unsafe { vm.set_user_memory_region(region) }.map_err(refused)?;
    Ok(memory)
}

fn is_interrupted(error: kvm_ioctls::Error) -> bool {
    io::Error::from(error).kind() == io::ErrorKind::Interrupted
}

fn refused(error: kvm_ioctls::Error) -> ProbeFailure {
    errno_failure(&io::Error::from(error))
}

/// Returns the failure that a system call's error stands for.
pub(crate) fn errno_failure(error: &io::Error) -> ProbeFailure {
    ProbeFailure::Errno {
        errno: error.raw_os_error().unwrap_or(0),
        message: error.to_string(),
    }
}

fn unexpected(exit: &VcpuExit<'_>) -> ProbeFailure {
    let (reason, detail) = match exit {
        VcpuExit::IoOut(port, _) => ("KVM_EXIT_IO", Some(u64::from(*port))),
        VcpuExit::IoIn(port, _) => ("KVM_EXIT_IO", Some(u64::from(*port))),
        VcpuExit::MmioRead(address, _) => ("KVM_EXIT_MMIO", Some(*address)),
        VcpuExit::MmioWrite(address, _) => ("KVM_EXIT_MMIO", Some(*address)),
        VcpuExit::Unknown => ("KVM_EXIT_UNKNOWN", None),
        VcpuExit::Exception => ("KVM_EXIT_EXCEPTION", None),
        VcpuExit::Hlt => ("KVM_EXIT_HLT", None),
        VcpuExit::Shutdown => ("KVM_EXIT_SHUTDOWN", None),
        VcpuExit::FailEntry(hardware_reason, _) => ("KVM_EXIT_FAIL_ENTRY", Some(*hardware_reason)),
        VcpuExit::SystemEvent(event, _) => ("KVM_EXIT_SYSTEM_EVENT", Some(u64::from(*event))),
        VcpuExit::MemoryFault { gpa, .. } => ("KVM_EXIT_MEMORY_FAULT", Some(*gpa)),
        VcpuExit::Unsupported(number) => ("unknown exit reason", Some(u64::from(*number))),
        other => {
            return ProbeFailure::UnexpectedExit {
                reason: format!("{other:?}"),
                detail: None,
            };
        }
    };
    ProbeFailure::UnexpectedExit {
        reason: reason.to_owned(),
        detail,
    }
}
