//! The system calls that each kind of thread makes, and what for.
//!
//! The lists are for x86-64 with the GNU C library. A call that is missing ends the machine, with
//! the signal `SIGSYS`; the audit log then has its number (seccomp(2), `SECCOMP_RET_KILL_PROCESS`).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What a thread is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// Carries out the supervisor's requests, and ends the process.
    Control,
    /// Reads the supervisor's requests.
    Listener,
    /// Runs a processor of the guest.
    Processor,
    /// Waits for a device's events and does its work.
    Devices,
}

/// A call that is allowed.
struct Call {
    number: i64,
    /// What for; read by people only.
    #[expect(dead_code, reason = "the reason for each call is a part of the list")]
    reason: &'static str,
    /// With which arguments; none for any.
    only: &'static [Only],
}

/// What one argument has to be.
#[derive(Clone, Copy)]
enum Only {
    /// One of several values of 32 bits: the call is allowed once for each.
    Equal(u8, u64),
    /// It has none of these bits.
    Without(u8, u64),
}

const fn call(number: i64, reason: &'static str) -> Call {
    Call {
        number,
        reason,
        only: &[],
    }
}

const fn only(number: i64, only: &'static [Only], reason: &'static str) -> Call {
    Call {
        number,
        reason,
        only,
    }
}

/// `KVM_RUN`, `_IO(KVMIO, 0x80)` (Linux 6.12, include/uapi/linux/kvm.h).
const KVM_RUN: u64 = 0xae80;

/// `KVM_GET_REGS`, `_IOR(KVMIO, 0x81, struct kvm_regs)` (same file).
const KVM_GET_REGS: u64 = 0x8090_ae81;

/// `F_GETFD` (fcntl(2)): asks for a descriptor's flags.
const F_GETFD: u64 = 1;

/// `PROT_EXEC` (mmap(2)), the third argument of both calls.
const NOT_EXECUTABLE: &[Only] = &[Only::Without(2, 0x4)];

/// What threads do whatever they are there for.
const EVERY_THREAD: &[Call] = &[
    call(libc::SYS_futex, "waits for other threads, and wakes them"),
    call(libc::SYS_read, "takes events, and requests"),
    call(libc::SYS_write, "raises events; replies, console, errors"),
    call(libc::SYS_sendto, "the same, on sockets"),
    call(libc::SYS_recvfrom, "the same, on sockets"),
    call(libc::SYS_brk, "memory of ours"),
    only(libc::SYS_mmap, NOT_EXECUTABLE, "memory of ours"),
    only(
        libc::SYS_mprotect,
        NOT_EXECUTABLE,
        "memory of ours, and stacks",
    ),
    call(libc::SYS_mremap, "memory of ours that grows"),
    call(libc::SYS_munmap, "memory of ours, and stacks"),
    call(
        libc::SYS_madvise,
        "memory given back, of ours and of the guest",
    ),
    call(libc::SYS_sigaltstack, "the end of a thread"),
    call(libc::SYS_rt_sigprocmask, "the end of a thread"),
    call(libc::SYS_rt_sigreturn, "the end of a signal's handler"),
    call(libc::SYS_sched_yield, "locks that are taken for a moment"),
    call(libc::SYS_clock_gettime, "where the vDSO has no clock"),
    call(
        libc::SYS_restart_syscall,
        "a wait that a stopped process goes on with",
    ),
    call(libc::SYS_close, "what the thread owned"),
    only(
        libc::SYS_fcntl,
        &[Only::Equal(1, F_GETFD)],
        "whether it is open still, in programs built with debug assertions",
    ),
    call(libc::SYS_exit, "the end of the thread"),
    call(libc::SYS_exit_group, "the end of the process"),
];

const CONTROL: &[Call] = &[
    call(libc::SYS_tgkill, "calls processors out of the guest"),
    call(libc::SYS_getrandom, "is another generation ID"),
    call(libc::SYS_getpid, "whom to call, and the end by a panic"),
    call(libc::SYS_gettid, "the end by a panic"),
];

/// Devices work in a processor's thread as well, when their driver has set them up.
const DEVICE_WORK: &[Call] = &[
    call(libc::SYS_preadv, "reads disks"),
    call(libc::SYS_pwritev, "writes disks"),
    call(libc::SYS_fstat, "sees that a disk has been cut"),
    call(libc::SYS_fdatasync, "flushes disks"),
    call(libc::SYS_fallocate, "discards blocks of disks"),
    call(libc::SYS_readv, "takes frames, and what the agent is told"),
    call(libc::SYS_writev, "sends frames, and what the agent says"),
    call(libc::SYS_getrandom, "is the guest's entropy"),
];

const PROCESSOR: &[Call] = &[
    only(
        libc::SYS_ioctl,
        &[Only::Equal(1, KVM_RUN)],
        "runs the guest",
    ),
    only(
        libc::SYS_ioctl,
        &[Only::Equal(1, KVM_GET_REGS)],
        "tells where it failed",
    ),
];

const DEVICES: &[Call] = &[call(libc::SYS_epoll_wait, "waits for events")];

const fn calls(kind: ThreadKind) -> &'static [&'static [Call]] {
    match kind {
        ThreadKind::Control => &[EVERY_THREAD, CONTROL],
        ThreadKind::Listener => &[EVERY_THREAD],
        ThreadKind::Processor => &[EVERY_THREAD, DEVICE_WORK, PROCESSOR],
        ThreadKind::Devices => &[EVERY_THREAD, DEVICE_WORK, DEVICES],
    }
}

/// Returns the program that the kernel runs at each call of such a thread.
pub(super) fn compile(kind: ThreadKind) -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls(kind).iter().copied().flatten() {
        let rules = rules.entry(call.number).or_default();
        if !call.only.is_empty() {
            let conditions: Result<Vec<_>, _> = call.only.iter().map(condition).collect();
            rules.push(SeccompRule::new(conditions?)?);
        }
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

fn condition(only: &Only) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (argument, operator, value) = match *only {
        Only::Equal(argument, value) => (argument, SeccompCmpOp::Eq, value),
        Only::Without(argument, bits) => (argument, SeccompCmpOp::MaskedEq(bits), 0),
    };
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}
