//! The code that the probe runs in a guest's ring 0, and natively to compare.
//!
//! It is assembled into this binary and copied into the guest byte for byte, so that both sides
//! of the comparison execute the same instructions. It is position independent, starts on a cache
//! line, and reaches memory through registers only.
//!
//! Interface of each entry point, which `kvm::trial` sets up:
//!
//! * [`EntryPoint::Loop`]: `rdi` = iterations; ends with `out EXIT_PORT, al`, `rax` = sum of
//!   `1..=rdi`.
//! * [`EntryPoint::Instructions`]: `rsi` = 16-byte aligned data, whose first 16 bytes equal
//!   `rdx:rax`, with 512 bytes of scratch at offset 512; `rcx:rbx` = what to put there;
//!   `r9` = what the breakpoint handler adds to `r8`; ends with `out EXIT_PORT, al`,
//!   `rax` = first 8 bytes of the data + `r8`.
//! * [`EntryPoint::BreakpointHandler`]: target of the guest's interrupt gate 3.
//!
//! The end is a port write, not HLT: with an interrupt controller in the kernel a halted virtual
//! processor never returns from `KVM_RUN` (KVM API documentation, §5 `KVM_EXIT_HLT`).

use std::arch::global_asm;
use std::hint::black_box;
use std::time::Instant;

/// Instructions of one iteration of the loop.
pub(crate) const INSTRUCTIONS_PER_ITERATION: u64 = 3;

/// I/O port that ends the guest code. 0xf4 belongs to no device of the PC platform, nor to one
/// that KVM emulates in the kernel.
pub(crate) const EXIT_PORT: u16 = 0xf4;

global_asm!(
    ".pushsection .text.smolvm_trial, \"ax\", @progbits",
    ".balign 64",
    ".globl smolvm_trial_begin",
    ".globl smolvm_trial_loop_entry",
    ".globl smolvm_trial_instructions_entry",
    ".globl smolvm_trial_breakpoint_handler",
    ".globl smolvm_trial_end",
    // An `extern "sysv64" fn(rdi: u64) -> rax: u64`.
    "smolvm_trial_begin:",
    "    xor eax, eax",
    "2:",
    "    add rax, rdi",
    "    dec rdi",
    "    jnz 2b",
    "    ret",
    "smolvm_trial_loop_entry:",
    "    call smolvm_trial_begin",
    "    out {exit_port}, al",
    "3:",
    "    hlt",
    "    jmp 3b",
    "smolvm_trial_instructions_entry:",
    "    lock cmpxchg16b [rsi]",
    "    fxsave64 [rsi + 512]",
    "    fxrstor64 [rsi + 512]",
    "    xor r8d, r8d",
    "    int3",
    "    mov rax, [rsi]",
    "    add rax, r8",
    "    out {exit_port}, al",
    "4:",
    "    hlt",
    "    jmp 4b",
    "smolvm_trial_breakpoint_handler:",
    "    add r8, r9",
    "    iretq",
    "smolvm_trial_end:",
    ".popsection",
    exit_port = const EXIT_PORT,
);

unsafe extern "sysv64" {
    #[link_name = "smolvm_trial_begin"]
    fn native_loop(iterations: u64) -> u64;
}

unsafe extern "C" {
    #[link_name = "smolvm_trial_begin"]
    static BEGIN: u8;
    #[link_name = "smolvm_trial_loop_entry"]
    static LOOP_ENTRY: u8;
    #[link_name = "smolvm_trial_instructions_entry"]
    static INSTRUCTIONS_ENTRY: u8;
    #[link_name = "smolvm_trial_breakpoint_handler"]
    static BREAKPOINT_HANDLER: u8;
    #[link_name = "smolvm_trial_end"]
    static END: u8;
}

/// Where execution can begin in the trial code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryPoint {
    /// The loop whose time is taken.
    Loop,
    /// Instructions that kernels use and that emulating hosts lack: `cmpxchg16b` (the slab
    /// allocator), `fxsave`/`fxrstor` (switching tasks), `int3` and `iretq` (patching code at
    /// boot, and every return from an interrupt).
    Instructions,
    /// What the guest's interrupt gate 3 points to.
    BreakpointHandler,
}

/// The trial code of this binary.
pub(crate) struct TrialCode;

impl TrialCode {
    /// Returns the code's bytes.
    pub(crate) fn bytes() -> &'static [u8] {
        let begin = &raw const BEGIN;
        let length = (&raw const END).addr() - begin.addr();
        // SAFETY: both symbols are defined by the assembly above, in this order and in one piece
        // of one section; the section is loaded readable and is never written.
        unsafe { std::slice::from_raw_parts(begin, length) }
    }

    /// Returns where `entry` lies, in bytes from the start of the code.
    pub(crate) fn offset(entry: EntryPoint) -> u64 {
        let symbol = match entry {
            EntryPoint::Loop => &raw const LOOP_ENTRY,
            EntryPoint::Instructions => &raw const INSTRUCTIONS_ENTRY,
            EntryPoint::BreakpointHandler => &raw const BREAKPOINT_HANDLER,
        };
        (symbol.addr() - (&raw const BEGIN).addr()) as u64
    }

    /// Returns what the loop computes: the sum of `1..=iterations`.
    pub(crate) fn loop_result(iterations: u64) -> u64 {
        iterations * (iterations + 1) / 2
    }

    /// Runs the loop `attempts` times in this process and returns the best time in nanoseconds.
    pub(crate) fn time_native_loop(iterations: u64, attempts: u32) -> u64 {
        let times = (0..attempts).map(|_| {
            let start = Instant::now();
            // SAFETY: the function is defined by the assembly above with this signature; it
            // changes only registers that the sysv64 convention leaves to the callee, and
            // touches no memory but its return address.
            let sum = unsafe { native_loop(black_box(iterations)) };
            let elapsed = start.elapsed();
            debug_assert_eq!(sum, Self::loop_result(iterations));
            u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
        });
        // A clock coarser than the loop must not make a division by zero of the ratio.
        times.min().unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_loop_computes_the_sum_that_the_guest_is_checked_against() {
        // SAFETY: as in `time_native_loop`.
        let sum = unsafe { native_loop(1_000) };
        assert_eq!(sum, TrialCode::loop_result(1_000));
    }

    #[test]
    fn entry_points_lie_inside_the_code() {
        let last = TrialCode::offset(EntryPoint::BreakpointHandler);
        assert!(TrialCode::offset(EntryPoint::Loop) > 0);
        assert!(last < TrialCode::bytes().len() as u64);
    }
}
