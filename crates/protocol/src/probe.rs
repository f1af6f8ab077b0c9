//! What `smolvm-vmm probe` found out about the host: one JSON document on standard output.
//!
//! The probe is a process of its own, so that a KVM that hangs or crashes its user hurts nobody
//! else. Its reader gives it [`PROBE_DEADLINE_MS`] and takes a missing or unreadable document as
//! a KVM that is not usable.
//!
//! # Compatibility
//!
//! Both binaries come from one build, so a reader refuses a [`ProbeReport::version`] other than
//! its own [`PROBE_VERSION`]; unknown fields are ignored.

use serde::{Deserialize, Serialize};

/// Version of [`ProbeReport`]; it grows whenever a field or a verdict changes its meaning.
pub const PROBE_VERSION: u32 = 1;

/// Milliseconds after which a reader kills the probe.
///
/// The probe ends by itself within 2,000 ms; the rest is for a busy host to start it.
pub const PROBE_DEADLINE_MS: u64 = 5_000;

/// All that one run of the probe has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// [`PROBE_VERSION`] of the writer.
    pub version: u32,
    /// Whether KVM can run a guest on this host.
    pub kvm: KvmVerdict,
    /// What `KVM_GET_API_VERSION` answered, when the device could be asked.
    pub kvm_api_version: Option<i32>,
    /// What `cpuid` shows of hardware virtualisation. For people only: hosts exist where KVM
    /// works without these flags, and hosts where it does not work with them.
    pub cpu: CpuVirtualization,
    /// Frequency of the time stamp counter, where it could be measured.
    pub tsc: Option<TscFrequency>,
}

/// Whether KVM can run a guest, found by running one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum KvmVerdict {
    /// A guest ran at ring 0 with right results and near native speed.
    Usable {
        /// How long the loop took.
        speed: LoopSpeed,
    },
    /// The host has no KVM device, or nothing stands behind the device's name.
    Absent,
    /// The device may not be opened by this user.
    NoPermission {
        /// Group that owns the device.
        group_id: u32,
        /// Name of that group, where the host has one for it.
        group_name: Option<String>,
    },
    /// Another hypervisor holds the processor's virtualisation.
    Busy {
        /// What was refused.
        step: ProbeStep,
    },
    /// Virtual machines can be created, but their ring 0 is interpreted by software.
    Emulated {
        /// How long the loop took.
        speed: LoopSpeed,
        /// Why the instructions that a kernel needs did not run either, if they did not.
        instruction_failure: Option<ProbeFailure>,
    },
    /// KVM fails at something every guest needs.
    Failing {
        /// What failed.
        step: ProbeStep,
        /// How it failed.
        failure: ProbeFailure,
    },
}

/// How long the same loop takes in a guest's ring 0 and in an ordinary process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopSpeed {
    /// Instructions of the loop, the same in both.
    pub instructions: u64,
    /// Nanoseconds in the guest, entry and exit included; the best of the attempts.
    pub guest_ns: u64,
    /// Nanoseconds in the probe's own process; the best of the attempts.
    pub native_ns: u64,
    /// `guest_ns / native_ns`, in percent: 100 is native speed.
    pub ratio_percent: u64,
}

/// A step of the probe, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeStep {
    /// Open the device.
    OpenDevice,
    /// Ask for the API version, which must be 12.
    ApiVersion,
    /// Create the virtual machine.
    CreateVm,
    /// Create its interrupt controllers.
    CreateIrqchip,
    /// Give it memory.
    SetMemory,
    /// Create a virtual processor.
    CreateVcpu,
    /// Set the virtual processor's features and registers.
    SetRegisters,
    /// Run the loop at ring 0.
    RunLoop,
    /// Run instructions that kernels use and that emulating hosts lack.
    RunInstructions,
}

/// How a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ProbeFailure {
    /// A system call was refused.
    Errno {
        /// The error's number.
        errno: i32,
        /// The error in words.
        message: String,
    },
    /// The API version is not 12.
    UnsupportedApiVersion,
    /// The guest left for another reason than that its code had ended.
    UnexpectedExit {
        /// Name of the exit reason, such as `KVM_EXIT_INTERNAL_ERROR`.
        reason: String,
        /// The reason's own code, such as the suberror of an internal error.
        detail: Option<u64>,
    },
    /// The guest ended its code with other results than the code gives.
    WrongResult {
        /// What the guest computed.
        found: u64,
        /// What the code gives.
        expected: u64,
    },
    /// The step had not ended when the probe's time was over.
    TimedOut {
        /// The time the probe gives itself, in milliseconds.
        limit_ms: u64,
    },
    /// The probe itself ended without a result.
    ProbeCrashed,
}

/// What `cpuid` shows of hardware virtualisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuVirtualization {
    /// Intel VT-x: CPUID.1:ECX bit 5 (Intel SDM volume 3, §24.6).
    pub has_vmx: bool,
    /// AMD-V: CPUID Fn8000_0001_ECX bit 2 (AMD64 APM volume 3, appendix E.4.2).
    pub has_svm: bool,
}

/// Frequency of the host's time stamp counter, measured against its raw monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TscFrequency {
    /// Kilohertz; what the kernel parameter `tsc_early_khz=` takes.
    pub khz: u64,
    /// Bound of the error that reading two clocks one after the other makes, in parts per
    /// million.
    pub uncertainty_ppm: u64,
}
