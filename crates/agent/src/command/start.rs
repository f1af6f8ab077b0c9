//! Starts a resolved command: its descriptors, its cgroup, its process, and the guard over them.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use smolvm_protocol::message::{
    Exec, Limits, MAX_PROGRAM_CHARS, Refusal, RefusalCode, TerminalSize,
};

use super::plan::CommandPlan;
use super::users::AccountFiles;
use crate::cgroups::{Cgroup, CgroupError};
use crate::reaper::Child;
use crate::refusal;
use crate::session::Environment;
use crate::sys::signals;
use crate::sys::spawn::{SpawnError, SpawnPlan, SpawnStep};

/// A command that runs. Dropping it kills the command and everything it started, unless it was
/// said to have ended.
#[derive(Debug)]
pub(crate) struct RunningCommand {
    pub(crate) child: Child,
    pub(crate) started: Instant,
    cgroup: Option<Cgroup>,
    has_ended: bool,
}

/// The agent's ends of a command's input and output.
#[derive(Debug)]
pub(crate) enum HostEnds {
    /// One pipe for each; no `stdin` where the command has none.
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// The controlling side of the command's terminal.
    Terminal(OwnedFd),
}

/// Resolves and starts what `exec` asks for, as the command of `job` where it is one. Blocks until
/// the program is executed.
///
/// # Errors
///
/// When a value is not legal, something named does not exist, or the kernel refuses.
pub(crate) fn start(
    exec: &Exec,
    job: Option<String>,
    environment: &Environment,
) -> Result<(RunningCommand, HostEnds), Refusal> {
    let plan = CommandPlan::resolve(exec, &AccountFiles::read(), environment.variables())?;
    let no_descriptors = |error: Errno| refusal::about("command", &error.into());
    let (ends, stdio) = match exec.terminal {
        Some(size) => terminal(size, &plan),
        None => pipes(exec.stdin),
    }
    .map_err(no_descriptors)?;
    let running = start_on(exec, job, plan, stdio, environment)?;
    Ok((running, ends))
}

/// Starts a resolved command on descriptors that are its own already. Blocks until the program is
/// executed.
///
/// # Errors
///
/// When something named does not exist, or the kernel refuses.
pub(crate) fn start_on(
    exec: &Exec,
    job: Option<String>,
    plan: CommandPlan,
    stdio: [OwnedFd; 3],
    environment: &Environment,
) -> Result<RunningCommand, Refusal> {
    let cgroup = confine(&exec.limits, environment)?;
    let is_privileged = rustix::process::geteuid().is_root();
    let plan = SpawnPlan {
        programs: plan.programs,
        arguments: plan.arguments,
        environment: plan.environment,
        directory: plan.directory,
        fallback_directory: plan.fallback_directory,
        // Without privileges the only user that can be had is the agent's own.
        credentials: (is_privileged || exec.user.is_some()).then_some(plan.credentials),
        stdio,
        has_terminal: exec.terminal.is_some(),
        resets_oom_score: environment.is_init,
    };
    let started = Instant::now();
    let child = environment
        .reaper
        .start(&plan, cgroup.as_ref().map(AsFd::as_fd))
        .map_err(|error| spawn_refusal(&error, &plan))?;
    let running = RunningCommand {
        child,
        started,
        cgroup,
        has_ended: false,
    };
    if let Some(cgroup) = &running.cgroup {
        cgroup.note_command(running.pid(), program_name(&plan), job);
    }
    Ok(running)
}

/// Returns the name by which people are told of a command.
fn program_name(plan: &SpawnPlan) -> String {
    let path = plan
        .arguments
        .first()
        .map_or(&b""[..], |name| name.as_bytes());
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let name = String::from_utf8_lossy(name);
    name.chars().take(MAX_PROGRAM_CHARS).collect()
}

/// Makes the cgroup of a command that may use what `limits` say.
fn confine(limits: &Limits, environment: &Environment) -> Result<Option<Cgroup>, Refusal> {
    let Limits {
        memory_mib,
        cpu_percent,
        processes,
    } = *limits;
    let all = [memory_mib, cpu_percent, processes];
    if all.contains(&Some(0)) {
        return Err(refusal::invalid(
            "a limit of zero leaves nothing to run with",
        ));
    }
    let Some(cgroups) = &environment.cgroups else {
        return match all {
            [None, None, None] => Ok(None),
            _ => Err(refusal::invalid(
                "the guest has no cgroups to limit a command with",
            )),
        };
    };
    match cgroups.create(limits) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(CgroupError::Make(error)) => Err(refusal::about("cgroup", &error)),
        Err(CgroupError::Limit(error)) => Err(refusal::invalid(&error.to_string())),
    }
}

impl RunningCommand {
    /// Returns the process ID of its main process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills the command and everything it started, daemons included.
    ///
    /// Without cgroups, what has left the command's session escapes.
    pub(crate) fn kill_tree(&self) {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => self.kill_session(),
        }
    }

    /// Returns how many processes of the command the kernel killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.cgroup.as_ref().map_or(0, Cgroup::oom_kills)
    }

    /// Says that the command has ended by itself, and that what it left running may go on.
    pub(crate) fn leave_daemons(mut self) {
        self.has_ended = true;
    }

    fn kill_session(&self) {
        for process in session_members(self.child.pid) {
            // Those that end meanwhile need no signal.
            let _ = signals::signal_process(process, libc::SIGKILL);
        }
        self.child.signal_group(libc::SIGKILL);
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        if !self.has_ended {
            self.kill_tree();
        }
    }
}

/// Returns the processes whose session `leader` leads (proc_pid_stat(5), field 6), but for the
/// leader.
fn session_members(leader: Pid) -> Vec<Pid> {
    let session = leader.as_raw_nonzero().get();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|number| *number != session && session_of(*number) == Some(session))
        .filter_map(Pid::from_raw)
        .collect()
}

fn session_of(process: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
    let text = String::from_utf8_lossy(&stat);
    // The second field is the name in parentheses and may itself hold anything.
    let (_, after_name) = text.rsplit_once(')')?;
    after_name.split_whitespace().nth(3)?.parse().ok()
}

type Stdio = (HostEnds, [OwnedFd; 3]);

fn pipes(has_stdin: bool) -> Result<Stdio, Errno> {
    let (stdout, child_stdout) = output_pipe()?;
    let (stderr, child_stderr) = output_pipe()?;
    let (stdin, child_stdin) = if has_stdin {
        let (child_stdin, stdin) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&stdin, true)?;
        (Some(stdin), child_stdin)
    } else {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        (None, rustix::fs::open(c"/dev/null", flags, Mode::empty())?)
    };
    let ends = HostEnds::Pipes {
        stdin,
        stdout,
        stderr,
    };
    Ok((ends, [child_stdin, child_stdout, child_stderr]))
}

/// Returns the agent's end, which does not block, and the child's, which does.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader, writer))
}

fn terminal(size: TerminalSize, plan: &CommandPlan) -> Result<Stdio, Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&controller)?;
    rustix::io::ioctl_fionbio(&controller, true)?;
    resize(&controller, size)?;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&controller, flags)?;
    // As for a login; an unprivileged agent's terminal is its own already.
    let _ = rustix::fs::fchown(&terminal, Some(plan.credentials.uid), None);
    let copies = [terminal.try_clone(), terminal.try_clone()];
    let [Ok(output), Ok(error_output)] = copies else {
        return Err(Errno::MFILE);
    };
    Ok((
        HostEnds::Terminal(controller),
        [terminal, output, error_output],
    ))
}

/// Changes the size of the terminal that `controller` controls.
pub(crate) fn resize(controller: impl AsFd, size: TerminalSize) -> Result<(), Errno> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(controller, size)
}

fn spawn_refusal(error: &SpawnError, plan: &SpawnPlan) -> Refusal {
    let subject = match (error.step, plan.programs.as_slice()) {
        (SpawnStep::Directory, _) => plan.directory.as_bytes(),
        (SpawnStep::Execute, [program]) => program.as_bytes(),
        // It was looked up, so its name is what was asked for.
        (SpawnStep::Execute, _) => plan
            .arguments
            .first()
            .map_or(&b"command"[..], |name| name.as_bytes()),
        (SpawnStep::Credentials, _) => b"user",
        (SpawnStep::Clone | SpawnStep::SetUp, _) => b"process",
    };
    let subject = Path::new(OsStr::from_bytes(subject));
    let mut refusal = refusal::at_path(subject, &error.errno.into());
    if error.step == SpawnStep::Execute
        && let Some((code, words)) = execute_refusal(error.errno)
    {
        refusal = refusal::refused(code, &format!("{}: {words}", refusal::quoted(subject)));
    }
    refusal
}

/// Tells what `execve` says about programs (execve(2), "ERRORS") from what it says of files.
fn execute_refusal(errno: Errno) -> Option<(RefusalCode, &'static str)> {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP => {
            Some((RefusalCode::CommandNotFound, "command not found"))
        }
        Errno::ACCESS | Errno::PERM | Errno::ISDIR => {
            Some((RefusalCode::NotExecutable, "not executable"))
        }
        Errno::NOEXEC | Errno::INVAL | Errno::LIBBAD => {
            Some((RefusalCode::NotExecutable, "not in an executable format"))
        }
        Errno::TXTBSY => Some((RefusalCode::NotExecutable, "open for writing")),
        _ => None,
    }
}
