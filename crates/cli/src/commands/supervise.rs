//! `supervise DIRECTORY`, hidden: owns the sandbox in `DIRECTORY` until it has ended.
//!
//! Started by the library with the sandbox's lock as an inherited descriptor, the lease as
//! standard input, and its log as both outputs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use rustix::process::{Resource, getrlimit, setrlimit};
use smolvm_sandbox::supervisor::{Inherited, SupervisorLog, supervise};
use smolvm_sandbox::sys;
use tracing::level_filters::LevelFilter;

use crate::text;

/// Threads for what blocks: looking at files for a moment. Each idle one costs a stack.
const MAX_BLOCKING_THREADS: usize = 2;

/// Stack of such a thread, in bytes; they only call into the file system.
const BLOCKING_STACK_BYTES: usize = 256 * 1024;

/// Runs the supervisor of the sandbox in `directory`.
pub(crate) fn main(directory: Option<OsString>) -> ExitCode {
    // First of all, while nothing else in this process has opened a descriptor.
    let lock = inherited_lock();
    let inherited = match inherit(directory, lock) {
        Ok(inherited) => inherited,
        Err(error) => {
            // There is no log yet, and whoever started this by hand reads it.
            let _unheard = writeln!(io::stderr(), "supervisor failed: {}", text::chain(&*error));
            return ExitCode::FAILURE;
        }
    };
    match run(inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %text::chain(&*error), "supervisor failed");
            ExitCode::FAILURE
        }
    }
}

/// Takes over the sandbox in `directory`, and goes on with its log.
fn inherit(
    directory: Option<OsString>,
    lock: io::Result<File>,
) -> Result<Inherited, Box<dyn std::error::Error>> {
    let directory = PathBuf::from(directory.ok_or("the sandbox's directory is missing")?);
    let inherited = Inherited::new(directory, lock?)?;
    tracing_subscriber::fmt()
        .with_writer(Mutex::new(SupervisorLog::open(&inherited)?))
        .with_ansi(false)
        .with_target(false)
        .with_max_level(LevelFilter::INFO)
        .init();
    Ok(inherited)
}

fn run(inherited: Inherited) -> Result<(), Box<dyn std::error::Error>> {
    // A leader of a process group already, where a shell with job control started it by hand.
    let _leads_already = rustix::process::setsid();
    raise_descriptor_limit();
    let lease = take_lease()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_stack_size(BLOCKING_STACK_BYTES)
        .build()?;
    runtime.block_on(async {
        let lease = tokio::net::UnixStream::from_std(lease)?;
        Ok(supervise(inherited, lease).await?)
    })
}

/// Allows as many open files as the host allows: each connection of the guest's network is one,
/// and the usual limit of 1,024 is there for programs that use select(2).
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With the usual limit, a busy guest is refused connections, which the log tells.
    let _unchanged = setrlimit(Resource::Nofile, limit);
}

/// Takes the lease from standard input, and leaves `/dev/null` there: the client sees the end of
/// the lease when its last copy is closed.
fn take_lease() -> io::Result<std::os::unix::net::UnixStream> {
    let lease = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = OwnedFd::from(File::open("/dev/null")?);
    rustix::stdio::dup2_stdin(&nothing)?;
    let lease = std::os::unix::net::UnixStream::from(lease);
    lease.set_nonblocking(true)?;
    Ok(lease)
}

#[expect(
    unsafe_code,
    reason = "the lock is inherited under a number, which only its user can vouch for"
)]
fn inherited_lock() -> io::Result<File> {
    // SAFETY: called once, by `main` before this process opens anything; the descriptor is the
    // one that the library passed to this hidden command, or is not open, which is checked.
    unsafe { sys::take_inherited_lock() }
}
