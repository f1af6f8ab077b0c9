//! Host programs: finding them, running them, and never leaving one behind.
//!
//! A program gets no stdin unless it is fed, a fixed search path and plain messages. Its stderr is
//! read line by line and the last lines become part of the error. When our side fails, or our
//! process dies, the program is told to stop and cleans up after itself.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use crate::cache::available_bytes;

/// Where programs are looked for. Not the caller's `PATH`: `mkfs.ext4` lives in `/usr/sbin`,
/// which ordinary users lack, and a program found elsewhere is not the one the package brought.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many of the last lines of stderr an error carries, and how long each may be.
const TAIL_LINES: usize = 12;
const TAIL_LINE_BYTES: usize = 400;

/// Most bytes of stdout that are kept. `apt-get indextargets` of a host with hundreds of sources
/// stays far below.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;

/// How long a program has to clean up after SIGTERM: mmdebstrap deletes its tree, which takes
/// seconds on a slow disk.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// How long a program that has closed its output may take to exit before we call the failure ours.
const EXIT_GRACE: Duration = Duration::from_millis(500);

/// Passes SIGTERM on to the whole process group, then waits for the program to clean up.
///
/// mmdebstrap waits for its children when it is told to stop, and expects them to be told as
/// well, as a terminal does. The shell gives a background command no stdin of its own accord.
const GUARD_SCRIPT: &str = r#"
trap 'trap "" TERM; kill -TERM 0' TERM
exec 3<&0
"$@" <&3 3<&- &
child=$!
exec <&- 3<&- >&-
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    status=$?
done
exit "$status"
"#;

/// A program of the host and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

/// Why a host program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program is not installed.
    #[error("the program {program} is not installed (Debian package {package})")]
    Missing {
        /// Its name.
        program: &'static str,
        /// The package that brings it.
        package: &'static str,
    },
    /// The program, or a pipe to it, failed to work at all.
    #[error("cannot {action} the program {program}")]
    Io {
        /// The step, in the infinitive.
        action: &'static str,
        /// Its name.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The program ran out of disk space.
    #[error("{program} found no space left in {}{}", path.display(),
        available_bytes.map_or(String::new(), |bytes| format!(" ({} MiB available)", bytes >> 20)))]
    DiskFull {
        /// Its name.
        program: &'static str,
        /// Where it was working.
        path: PathBuf,
        /// What is available there now, after its clean-up.
        available_bytes: Option<u64>,
    },
    /// The program said that it failed.
    #[error("{program} failed ({status}){}", printable_tail(messages))]
    Failed {
        /// Its name.
        program: &'static str,
        /// Its exit status.
        status: ExitStatus,
        /// The last lines it wrote to stderr.
        messages: Vec<String>,
    },
}

fn printable_tail(messages: &[String]) -> String {
    match messages {
        [] => String::new(),
        _ => format!(", its last words:\n  {}", messages.join("\n  ")),
    }
}

/// A program about to be run.
#[derive(Debug)]
pub(crate) struct Invocation {
    program: Program,
    directory: PathBuf,
    command: Command,
    /// Whether the program leads a process group, all of which is to be stopped.
    has_own_group: bool,
}

/// The near ends of a running program's pipes.
pub(crate) struct Running<'a> {
    program: Program,
    child: &'a mut Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<ChildStdout>,
}

impl Program {
    /// Returns the path of the program.
    pub(crate) fn find(&self) -> Result<PathBuf, CommandError> {
        self.find_in(SEARCH_PATH).ok_or(CommandError::Missing {
            program: self.name,
            package: self.package,
        })
    }

    /// Returns the path of the program in the directories of `search_path`, which are absolute.
    pub(crate) fn find_in(&self, search_path: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            let metadata = path.metadata();
            metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        let mut candidates = search_path
            .split(':')
            .map(|directory| Path::new(directory).join(self.name));
        candidates.find(is_program)
    }
}

/// Reads what a program still writes when nothing in it is of interest any more, such as the
/// zeros behind an archive: whoever is not heard out dies of a broken pipe.
pub(crate) fn hear_out(mut output: impl Read) -> io::Result<()> {
    io::copy(&mut output, &mut io::sink()).map(drop)
}

impl Invocation {
    /// Prepares a run of `program` in `directory`, which is also where it writes.
    pub(crate) fn new(program: Program, directory: &Path) -> Result<Self, CommandError> {
        let path = program.find()?;
        let command = Command::new(path);
        Ok(Self::with_command(program, directory, command))
    }

    /// Prepares a run of `program` that is told to stop when this thread's process dies, together
    /// with everything it has started.
    ///
    /// For programs that run long and leave much when they are forgotten.
    pub(crate) fn guarded(program: Program, directory: &Path) -> Result<Self, CommandError> {
        const SETPRIV: Program = Program {
            name: "setpriv",
            package: "util-linux",
        };
        let path = program.find()?;
        let mut command = Command::new(SETPRIV.find()?);
        command
            .args(["--pdeathsig", "TERM", "--", "sh", "-c", GUARD_SCRIPT, "sh"])
            .arg(path);
        // mmdebstrap hangs up on its whole process group when it fails. That must not be ours.
        command.process_group(0);
        let mut invocation = Self::with_command(program, directory, command);
        invocation.has_own_group = true;
        Ok(invocation)
    }

    fn with_command(program: Program, directory: &Path, mut command: Command) -> Self {
        command
            .env("PATH", SEARCH_PATH)
            .env("LC_ALL", "C.UTF-8")
            .current_dir(directory);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Self {
            program,
            directory: directory.to_owned(),
            command,
            has_own_group: false,
        }
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Lets errors speak of `program`, which the started program executes in its place.
    pub(crate) fn named(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// Hides the caller's environment from the program, whose work depends on it.
    ///
    /// Preconditions: comes before [`Invocation::env`].
    pub(crate) fn without_environment(mut self) -> Self {
        self.command.env_clear();
        self.env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8")
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn feed_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    pub(crate) fn read_stdout(mut self) -> Self {
        self.command.stdout(Stdio::piped());
        self
    }

    /// Runs the program and returns what it wrote to stdout.
    pub(crate) fn output(self) -> Result<Vec<u8>, CommandError> {
        self.read_stdout().run(&|_| {}, |running| {
            let stdout = running.stdout.take().expect("stdout was asked for");
            let mut bytes = Vec::new();
            let read = stdout.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
            read.map_err(|source| running.error("read from", source))?;
            Ok(bytes)
        })
    }

    /// Runs the program while `interact` uses its pipes, and fails if either fails.
    ///
    /// `on_message` gets each line of stderr, from another thread. When `interact` fails because
    /// the program died, the program's own error is returned.
    pub(crate) fn run<T, E: From<CommandError>>(
        mut self,
        on_message: &(dyn Fn(&str) + Sync),
        interact: impl FnOnce(&mut Running<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let program = self.program;
        let io_error = |action, source| CommandError::Io {
            action,
            program: program.name,
            source,
        };
        let spawned = self
            .command
            .spawn()
            .map_err(|source| io_error("start", source))?;
        let mut guard = Guard {
            child: spawned,
            has_own_group: self.has_own_group,
        };
        let stderr = guard.child.stderr.take().expect("stderr is piped");
        std::thread::scope(|scope| {
            let messages = scope.spawn(|| read_messages(stderr, on_message));
            let (stdin, stdout) = (guard.child.stdin.take(), guard.child.stdout.take());
            let mut running = Running {
                program,
                child: &mut guard.child,
                stdin,
                stdout,
            };
            let result = interact(&mut running);
            if result.is_err() && !running.exits_within(EXIT_GRACE) {
                drop(running);
                guard.stop();
                return result;
            }
            drop(running);
            let status = guard
                .child
                .wait()
                .map_err(|source| io_error("wait for", source))?;
            // A reader that panicked has no messages; the status still counts.
            let messages = messages.join().unwrap_or_default();
            if status.success() {
                return result;
            }
            Err(self.failure(status, messages).into())
        })
    }

    fn failure(&self, status: ExitStatus, messages: Vec<String>) -> CommandError {
        let program = self.program.name;
        // The texts of ENOSPC and EDQUOT, in the language set above.
        let is_full = |line: &String| {
            line.contains("No space left on device") || line.contains("Disk quota exceeded")
        };
        if messages.iter().any(is_full) {
            let path = self.directory.clone();
            let available_bytes = available_bytes(&path);
            return CommandError::DiskFull {
                program,
                path,
                available_bytes,
            };
        }
        CommandError::Failed {
            program,
            status,
            messages,
        }
    }
}

impl Running<'_> {
    /// Waits until the program has exited, at most for `limit`; returns whether it has.
    pub(crate) fn exits_within(&mut self, limit: Duration) -> bool {
        exits_within(self.child, limit)
    }

    /// Names the program in an error of one of its pipes.
    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> CommandError {
        CommandError::Io {
            action,
            program: self.program.name,
            source,
        }
    }
}

/// Stops the program on every way out that has not waited for it.
struct Guard {
    child: Child,
    has_own_group: bool,
}

impl Guard {
    /// Asks the program to stop, then makes it.
    fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Closed pipes end most programs by themselves.
        drop((self.child.stdin.take(), self.child.stdout.take()));
        self.signal(Signal::TERM);
        if !exits_within(&mut self.child, STOP_GRACE) {
            self.signal(Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Signals the program, which has not been waited for, so that its id is still its own.
    fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        // The leader of a group passes SIGTERM on; only the last resort goes to all at once.
        if self.has_own_group && signal == Signal::KILL {
            let _ = kill_process_group(pid, signal);
        } else {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop();
    }
}

fn exits_within(child: &mut Child, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            // Linux before 5.3 has no pidfd: look again soon.
            std::thread::sleep(left.min(Duration::from_millis(20)));
            continue;
        };
        let timeout = Timespec::try_from(left).ok();
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], timeout.as_ref());
    }
}

/// Reads stderr to its end and returns the last lines.
fn read_messages(stderr: ChildStderr, on_message: &(dyn Fn(&str) + Sync)) -> Vec<String> {
    let mut tail = VecDeque::new();
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without end is cut, not collected.
        match reader.by_ref().take(64 * 1024).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return tail.into(),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text
            .trim_end()
            .chars()
            .filter(|letter| !letter.is_control())
            .collect();
        if text.is_empty() {
            continue;
        }
        on_message(&text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.chars().take(TAIL_LINE_BYTES).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program = Program {
        name: "sh",
        package: "dash",
    };

    fn shell(script: &str) -> Invocation {
        Invocation::new(SHELL, Path::new("/"))
            .unwrap()
            .args(["-c", script])
    }

    #[test]
    fn output_is_what_the_program_printed() {
        assert_eq!(shell("echo out; echo err >&2").output().unwrap(), b"out\n");
    }

    #[test]
    fn a_failure_carries_the_last_words() {
        let error = shell("seq 100 >&2; exit 3").output().unwrap_err();
        let CommandError::Failed {
            status, messages, ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(status.code(), Some(3));
        assert_eq!(messages.len(), TAIL_LINES);
        assert_eq!(messages.last().map(String::as_str), Some("100"));
    }

    #[test]
    fn a_full_disk_is_recognised() {
        let error = shell("echo 'write: No space left on device' >&2; exit 1").output();
        assert!(matches!(
            error,
            Err(CommandError::DiskFull { program: "sh", .. })
        ));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let program = Program {
            name: "no-such-program",
            package: "some-package",
        };
        let error = Invocation::new(program, Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("Debian package some-package"));
    }

    #[test]
    fn our_failure_stops_the_program() {
        let started = Instant::now();
        let result: Result<(), CommandError> = shell("exec sleep 60").run(&|_| {}, |running| {
            Err(running.error("please", io::ErrorKind::Other.into()))
        });
        assert!(matches!(
            result,
            Err(CommandError::Io {
                action: "please",
                ..
            })
        ));
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_dead_program_is_the_cause_of_our_failure() {
        let result: Result<(), CommandError> =
            shell("exit 7").read_stdout().run(&|_| {}, |running| {
                let _ = io::copy(running.stdout.as_mut().unwrap(), &mut io::sink());
                Err(running.error("read from", io::ErrorKind::UnexpectedEof.into()))
            });
        assert!(matches!(result, Err(CommandError::Failed { .. })));
    }

    #[test]
    fn stopping_a_guarded_program_stops_what_it_started_and_lets_it_clean_up() {
        let directory = tempfile::tempdir().unwrap();
        let script = "trap 'wait; echo clean > cleaned; exit 1' TERM; \
                      (echo started; exec sleep 60) & wait";
        let guarded = Invocation::guarded(SHELL, directory.path()).unwrap();
        let guarded = guarded.args(["-c", script]).read_stdout();
        let started = Instant::now();
        let result: Result<(), CommandError> = guarded.run(&|_| {}, |running| {
            let mut line = [0; 8];
            running
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut line)
                .unwrap();
            Err(running.error("please", io::ErrorKind::Other.into()))
        });
        assert!(matches!(
            result,
            Err(CommandError::Io {
                action: "please",
                ..
            })
        ));
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the sleep was stopped as well"
        );
        assert!(directory.path().join("cleaned").exists());
    }

    #[test]
    fn a_guarded_program_gets_its_input_and_keeps_its_status() {
        let guarded = || Invocation::guarded(SHELL, Path::new("/")).unwrap();
        let copied = guarded().args(["-c", "cat"]).feed_stdin().read_stdout();
        let copied: Result<Vec<u8>, CommandError> = copied.run(&|_| {}, |running| {
            let mut stdin = running.stdin.take().unwrap();
            io::Write::write_all(&mut stdin, b"input").unwrap();
            drop(stdin);
            let mut bytes = Vec::new();
            running
                .stdout
                .as_mut()
                .unwrap()
                .read_to_end(&mut bytes)
                .unwrap();
            Ok(bytes)
        });
        assert_eq!(copied.unwrap(), b"input");
        let error = guarded().args(["-c", "exit 9"]).output().unwrap_err();
        assert!(matches!(error, CommandError::Failed { status, .. } if status.code() == Some(9)));
    }
}
