//! What `cpuid` says of the host's processor.

use std::arch::asm;

use smolvm_protocol::probe::CpuVirtualization;

/// CPUID.1:ECX.VMX (Intel SDM volume 3, §24.6).
const LEAF1_ECX_VMX: u32 = 1 << 5;
/// CPUID Fn8000_0001_ECX.SVM (AMD64 APM volume 3, appendix E.4.2).
const EXTENDED1_ECX_SVM: u32 = 1 << 2;

const LEAF_FEATURES: u32 = 1;
const LEAF_EXTENDED_MAX: u32 = 0x8000_0000;
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;

/// Returns which kinds of hardware virtualisation the processor shows.
pub(crate) fn virtualization() -> CpuVirtualization {
    let features = cpuid(LEAF_FEATURES);
    let has_extended = cpuid(LEAF_EXTENDED_MAX).eax >= LEAF_EXTENDED_FEATURES;
    let extended_ecx = if has_extended {
        cpuid(LEAF_EXTENDED_FEATURES).ecx
    } else {
        0
    };
    CpuVirtualization {
        has_vmx: features.ecx & LEAF1_ECX_VMX != 0,
        has_svm: extended_ecx & EXTENDED1_ECX_SVM != 0,
    }
}

/// The two registers of an answer that are of use here.
struct Cpuid {
    eax: u32,
    ecx: u32,
}

/// Asks for a leaf without subleaves.
///
/// By hand because the standard library's `__cpuid` is a safe function or an unsafe one depending
/// on the version of the compiler.
fn cpuid(leaf: u32) -> Cpuid {
    let (eax, ecx);
    // SAFETY: CPUID exists on every x86-64 processor, at every privilege, and touches no memory.
    // RBX, which the compiler keeps for itself, is restored.
    unsafe {
        asm!(
            "mov {saved:r}, rbx",
            "cpuid",
            "mov rbx, {saved:r}",
            saved = out(reg) _,
            inlateout("eax") leaf => eax,
            inlateout("ecx") 0_u32 => ecx,
            out("edx") _,
            options(nomem, nostack, preserves_flags),
        );
    }
    Cpuid { eax, ecx }
}
