//! The one place of this crate that starts processes on the host.
//!
//! A process started here never inherits the caller's standard output or error output, so that
//! whoever captures a command's output is not kept waiting by what the command left running.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::fs::MemfdFlags;
use smolvm_jail::{JailPlan, Namespaces};
use smolvm_protocol::probe::PROBE_DEADLINE_MS;
use tokio::process::Child;

use crate::SandboxSpec;
use crate::installation::Installation;
use crate::record::SandboxDir;
use crate::store::SandboxLock;

/// Hidden command of the `smolvm` program that becomes a supervisor.
pub const SUPERVISE_COMMAND: &str = "supervise";

/// Descriptor on which a supervisor inherits its sandbox's lock.
pub const LOCK_FD: i32 = 3;

/// Longest time a probe of the host may take; it ends itself well before.
const PROBE_PATIENCE: Duration = Duration::from_millis(PROBE_DEADLINE_MS);

/// Longest time a program may take to say which version it is.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Longest report of a probe that is read, in bytes. A real one is below 1 KiB.
const MAX_REPORT_BYTES: u64 = 64 * 1024;

/// A descriptor that a new process gets under a number.
#[derive(Debug)]
pub(crate) struct InheritedFd {
    pub(crate) fd: OwnedFd,
    pub(crate) number: i32,
}

/// Starts the supervisor of the sandbox that `lock` is for.
///
/// It gets `lease` as standard input, the lock, and its log for what it writes before it has
/// opened that itself. Of this process's environment it does not get the variables of the sandbox's
/// secrets: their values may be in them, and it lives longer than whoever set them.
pub(crate) fn spawn_supervisor(
    installation: &Installation,
    spec: &SandboxSpec,
    lock: &SandboxLock,
    lease: OwnedFd,
) -> io::Result<()> {
    let directory: &SandboxDir = lock.directory();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(directory.supervisor_log())?;
    let mut command = Command::new(&installation.smolvm);
    command
        .arg(SUPERVISE_COMMAND)
        .arg(directory.path())
        .current_dir("/")
        .stdin(Stdio::from(lease))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log));
    for secret in &spec.secrets {
        command.env_remove(&secret.name);
    }
    let lock_fd = OwnedFd::from(lock.file().try_clone()?);
    command
        .fd_mappings(vec![FdMapping {
            parent_fd: lock_fd,
            child_fd: LOCK_FD,
        }])
        .map_err(io::Error::other)?;
    // Not waited for: it outlives this process, or ends as this process's child, which the
    // thread below collects.
    let mut child = command.spawn()?;
    std::thread::Builder::new()
        .name("smolvm-reaper".into())
        .spawn(move || child.wait())?;
    Ok(())
}

/// Starts the launcher of a VMM with its jail in its standard input, `inherited` descriptors and a
/// pipe for its error output.
pub(crate) fn spawn_jailed(
    launcher: &Path,
    arguments: &[OsString],
    plan: &JailPlan,
    inherited: Vec<InheritedFd>,
) -> io::Result<Child> {
    let mut command = tokio::process::Command::new(launcher);
    command
        .args(arguments)
        .current_dir("/")
        .env_clear()
        .stdin(file_with(&serde_json::to_vec(plan)?)?)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mappings = inherited
        .into_iter()
        .map(|InheritedFd { fd, number }| FdMapping {
            parent_fd: fd,
            child_fd: number,
        })
        .collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    command.spawn()
}

/// Returns a file in memory that is about to be read from its beginning.
fn file_with(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("jail", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Runs `smolvm-vmm probe` and returns the line it prints.
///
/// Does not wait for the process to end: a thread of it may be stuck in a broken KVM. It is
/// killed instead.
pub(crate) async fn run_probe(vmm: &Path) -> io::Result<String> {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

    let mut child = tokio::process::Command::new(vmm)
        .arg("probe")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stdout.take().expect("the output is piped");
    let mut line = String::new();
    let mut reader = BufReader::new(output.take(MAX_REPORT_BYTES));
    tokio::time::timeout(PROBE_PATIENCE, reader.read_line(&mut line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(line)
}

/// Asks this host which namespaces it allows a VMM.
///
/// # Errors
///
/// When `launcher` does not answer.
pub async fn try_namespaces(launcher: &Path) -> io::Result<Namespaces> {
    let answer = ask(launcher, &["jail", "--namespaces"]).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Runs a program of the host that only says something, and returns what it says.
pub(crate) async fn ask(program: &Path, arguments: &[&str]) -> io::Result<Vec<u8>> {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(ANSWER_PATIENCE, output)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(output.stdout)
}
