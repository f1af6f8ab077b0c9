//! Starts a process: its own session, its cgroup, its user, its descriptors, then `execve`.
//!
//! ```text
//!   parent  clone3(VFORK | INTO_CGROUP | PARENT_SETTID) .. suspended ........ reads the report
//!   child         \-> setsid, terminal, stdio, limits, user, directory, execve    (or reports)
//! ```
//!
//! The child is in its cgroup from its first instruction, so nothing it starts escapes, and
//! its number is in `pid_cell` before it runs, so no reaper can see its end too early.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Resource, Rlimit};

use super::signals::{MAX_SIGNAL, last_errno};

/// Files a command may open at first: what databases and browsers ask for, and few enough that
/// programs that close every possible descriptor stay quick.
const OPEN_FILES_SOFT: u64 = 65_536;

/// Files a command may raise its limit to: the kernel's own `fs.nr_open` default
/// (Documentation/admin-guide/sysctl/fs.rst).
const OPEN_FILES_HARD: u64 = 1_048_576;

/// Exit status of a child that could not become the command; nobody sees it.
const SPAWN_FAILED_STATUS: i32 = 127;

/// A resolved process to start. Everything is allocated before the child exists.
#[derive(Debug)]
pub(crate) struct SpawnPlan {
    /// Paths tried in turn, as a shell tries the directories of `PATH`.
    pub(crate) programs: Vec<CString>,
    /// Arguments, the zeroth first.
    pub(crate) arguments: Vec<CString>,
    /// `KEY=value` strings.
    pub(crate) environment: Vec<CString>,
    /// Working directory.
    pub(crate) directory: CString,
    /// Used when `directory` cannot be entered and was not asked for by name.
    pub(crate) fallback_directory: Option<CString>,
    /// Who runs it; this process's user when absent.
    pub(crate) credentials: Option<Credentials>,
    /// Standard input, output and error output of the child.
    pub(crate) stdio: [OwnedFd; 3],
    /// Whether the child's standard input becomes its controlling terminal.
    pub(crate) has_terminal: bool,
    /// Whether the child gives up this process's protection from the out-of-memory killer.
    pub(crate) resets_oom_score: bool,
}

/// User, group and supplementary groups of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
}

/// Step of a start that failed. The numbers go through the report pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SpawnStep {
    /// Creating the process.
    Clone = 0,
    /// Session, terminal, descriptors or limits.
    SetUp = 1,
    /// Changing user and groups.
    Credentials = 2,
    /// Entering the working directory.
    Directory = 3,
    /// Executing the program.
    Execute = 4,
}

impl SpawnStep {
    fn from_report(value: u8) -> Self {
        match value {
            2 => Self::Credentials,
            3 => Self::Directory,
            4 => Self::Execute,
            _ => Self::SetUp,
        }
    }
}

/// Why a process could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("start failed at {step:?}")]
pub(crate) struct SpawnError {
    pub(crate) step: SpawnStep,
    #[source]
    pub(crate) errno: Errno,
}

/// Starts the process that `plan` describes, in `cgroup` where one is given.
///
/// Blocks until the child has become the command or has failed to. `pid_cell` receives the
/// child's number before the child runs; after a failure of a later step than
/// [`SpawnStep::Clone`] the child is still to be reaped.
///
/// # Errors
///
/// The step that failed and the kernel's reason.
pub(crate) fn spawn(
    plan: &SpawnPlan,
    cgroup: Option<BorrowedFd<'_>>,
    pid_cell: &AtomicI32,
) -> Result<Pid, SpawnError> {
    let clone_failed = |errno| SpawnError {
        step: SpawnStep::Clone,
        errno,
    };
    let (report_reader, report_writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(clone_failed)?;
    let image = ExecImage::new(plan);
    let blocked = block_signals();
    let result = clone_process(cgroup, pid_cell);
    if let Ok(None) = result {
        become_command(plan, &image, report_writer.as_fd());
    }
    restore_signals(&blocked);
    let pid = result
        .map_err(clone_failed)?
        .expect("the child never returns from become_command");
    drop(report_writer);
    let mut report = [0_u8; 5];
    match rustix::io::read(&report_reader, &mut report) {
        Ok(count) if count == report.len() => {
            let errno = i32::from_ne_bytes([report[1], report[2], report[3], report[4]]);
            Err(SpawnError {
                step: SpawnStep::from_report(report[0]),
                errno: Errno::from_raw_os_error(errno),
            })
        }
        _ => Ok(pid),
    }
}

/// Pointer tables for `execve`, into strings that the plan owns.
struct ExecImage {
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
}

impl ExecImage {
    fn new(plan: &SpawnPlan) -> Self {
        let table = |strings: &[CString]| {
            strings
                .iter()
                .map(|string| string.as_ptr())
                .chain([ptr::null()])
                .collect()
        };
        Self {
            arguments: table(&plan.arguments),
            environment: table(&plan.environment),
        }
    }
}

/// Returns `None` in the child.
fn clone_process(
    cgroup: Option<BorrowedFd<'_>>,
    pid_cell: &AtomicI32,
) -> Result<Option<Pid>, Errno> {
    // SAFETY: clone_args is plain numbers, for which all zeroes is a value (clone(2)).
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    arguments.parent_tid = pid_cell.as_ptr().expose_provenance() as u64;
    arguments.flags = u64::from((libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID).unsigned_abs());
    if let Some(cgroup) = cgroup {
        // CLONE_INTO_CGROUP does not fit the C library's int (linux/sched.h: 0x200000000).
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without CLONE_VM the child has its own copy of all memory and goes on with the
    // copy of this stack, as after fork(2). `arguments` lives across the call and its size is
    // passed; `parent_tid` points to an i32 that outlives the call. The child calls only
    // functions that are safe after fork in a threaded process, as `become_command` states.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match i32::try_from(result) {
        Ok(0) => Ok(None),
        Ok(number) if number > 0 => {
            pid_cell.store(number, Ordering::Release);
            Ok(Pid::from_raw(number))
        }
        _ => Err(last_errno()),
    }
}

/// Runs in the child: turns it into the command or reports why not. Never returns.
///
/// Only direct system calls on memory that is prepared: another thread may have held any lock,
/// the allocator's too, when the child was made.
fn become_command(plan: &SpawnPlan, image: &ExecImage, report: BorrowedFd<'_>) -> ! {
    let error = try_become_command(plan, image);
    let mut bytes = [0_u8; 5];
    bytes[0] = error.step as u8;
    bytes[1..].copy_from_slice(&error.errno.raw_os_error().to_ne_bytes());
    let _ = rustix::io::write(report, &bytes);
    // SAFETY: _exit(2) ends this process at once; nothing of it is used again.
    unsafe { libc::_exit(SPAWN_FAILED_STATUS) }
}

fn try_become_command(plan: &SpawnPlan, image: &ExecImage) -> SpawnError {
    let at = |step| move |errno| SpawnError { step, errno };
    let prepared = set_up_process(plan)
        .map_err(at(SpawnStep::SetUp))
        .and_then(|()| set_credentials(plan).map_err(at(SpawnStep::Credentials)))
        .and_then(|()| enter_directory(plan).map_err(at(SpawnStep::Directory)));
    match prepared {
        Err(error) => error,
        Ok(()) => {
            reset_signals();
            at(SpawnStep::Execute)(execute(plan, image))
        }
    }
}

fn set_up_process(plan: &SpawnPlan) -> Result<(), Errno> {
    rustix::process::setsid()?;
    let [input, output, error_output] = &plan.stdio;
    if plan.has_terminal {
        rustix::process::ioctl_tiocsctty(input)?;
    }
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(error_output)?;
    mark_other_descriptors_close_on_exec();
    if plan.resets_oom_score {
        // Without a /proc, which root in the guest may unmount, commands still run.
        let _ = reset_oom_score();
    }
    let limit = Rlimit {
        current: Some(OPEN_FILES_SOFT),
        maximum: Some(OPEN_FILES_HARD),
    };
    // An unprivileged agent may not raise the hard limit; the inherited one is then as good.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// Makes the child as likely a victim of the out-of-memory killer as any other process
/// (proc_pid_oom_score_adj(5)).
fn reset_oom_score() -> Result<(), Errno> {
    let file = rustix::fs::open(
        c"/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::write(&file, b"0").map(|_| ())
}

/// Belt and braces: each descriptor of the agent is close-on-exec from its birth.
fn mark_other_descriptors_close_on_exec() {
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing; it sets a flag on
    // descriptors of this process, which is about to execute the command or exit.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// The thread-wise calls of rustix are the plain system calls; the child has one thread.
fn set_credentials(plan: &SpawnPlan) -> Result<(), Errno> {
    let Some(credentials) = &plan.credentials else {
        return Ok(());
    };
    rustix::thread::set_thread_groups(&credentials.groups)?;
    let gid = credentials.gid;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = credentials.uid;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn enter_directory(plan: &SpawnPlan) -> Result<(), Errno> {
    match (
        rustix::process::chdir(plan.directory.as_c_str()),
        &plan.fallback_directory,
    ) {
        (Err(_), Some(fallback)) => rustix::process::chdir(fallback.as_c_str()),
        (result, _) => result,
    }
}

fn execute(plan: &SpawnPlan, image: &ExecImage) -> Errno {
    let mut worst = Errno::NOENT;
    for program in &plan.programs {
        // SAFETY: `program` is a C string; both tables end with a null pointer and point to C
        // strings that `plan` owns, none of which this process changes.
        let _ = unsafe {
            libc::execve(
                program.as_ptr(),
                image.arguments.as_ptr(),
                image.environment.as_ptr(),
            )
        };
        let errno = last_errno();
        match errno {
            // As execvp(3): go on with the next directory, but remember the denial.
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => worst = errno,
            _ => return errno,
        }
    }
    worst
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is an array of numbers, for which all zeroes is a value.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is a valid, writable sigset_t.
    let _ = unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both pointers are to valid sets; the call changes this thread's mask only.
    let _ = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    before
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: `mask` is a set that `block_signals` filled; a null pointer asks for no old mask.
    let _ = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

/// Gives the child default dispositions, then an empty mask.
///
/// `execve` resets handlers but keeps ignored signals ignored (signal(7)), and the Rust runtime
/// ignores SIGPIPE. Handlers go too before the mask does, so that none of the agent's runs here.
fn reset_signals() {
    // The kernel's struct sigaction, at most this long on any machine; all zeroes is SIG_DFL
    // (linux/signal_types.h). The C library's own call would leave out the two numbers it uses.
    let default = [0_u64; 8];
    for number in 1..=MAX_SIGNAL {
        // SAFETY: `default` is longer than the structure that the kernel reads, no old one is
        // asked for, and the last argument is the size of a signal set, 8 bytes. The kernel
        // refuses for SIGKILL and SIGSTOP, which changes nothing.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: sigset_t is an array of numbers, for which all zeroes is the empty set.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    restore_signals(&empty);
}
