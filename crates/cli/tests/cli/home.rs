//! A private home for the sandboxes of one test.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest time anything here may take; everything takes moments.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at something that nobody tells of.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A home for sandboxes. Dropping it asserts that nothing is left in it.
pub(crate) struct Home {
    directory: TempDir,
}

/// What a command that has ended left.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code, or 128 + n for signal n.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            directory: TempDir::with_prefix("smolvm-cli-").expect("temporary directory"),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.path().join("data/sandboxes")
    }

    /// Returns `smolvm` with `arguments` in this home, and in no other environment.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smolvm"));
        command
            .args(arguments)
            .env_clear()
            .env("SMOLVM_HOME", self.path())
            .env("SMOLVM_BACKEND", "fake")
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `smolvm` with `arguments` to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Ended {
        Ended::from(self.command(arguments).output().expect("smolvm starts"))
    }

    /// Runs `smolvm` with `arguments` and `input`.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("smolvm starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let ended = Ended::from(child.wait_with_output().expect("smolvm ends"));
        writer
            .join()
            .expect("the writer does not panic")
            .expect("smolvm takes all input");
        ended
    }

    /// Starts `smolvm run ... cat` and returns it once the command in the guest has answered.
    pub(crate) fn start_cat(&self, arguments: &[&str]) -> Child {
        let arguments = [arguments, &["--", "cat"]].concat();
        let mut child = self
            .command(&arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("smolvm starts");
        let stdin = child.stdin.as_mut().expect("piped");
        stdin.write_all(b"ready\n").expect("smolvm takes input");
        let mut line = String::new();
        BufReader::with_capacity(1, child.stdout.as_mut().expect("piped"))
            .read_line(&mut line)
            .expect("smolvm answers");
        assert_eq!(line, "ready\n");
        child
    }

    /// Runs `smolvm` with `arguments` and `--json`, which must succeed, and returns its data.
    pub(crate) fn data(&self, arguments: &[&str]) -> Value {
        let arguments = [&["--json"], arguments].concat();
        let ended = self.run(&arguments);
        let mut document = ended.document();
        assert_eq!(document["ok"], true, "{document:#}");
        document["data"].take()
    }

    /// Returns the names of what is in the directory of sandboxes.
    pub(crate) fn entries(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.sandboxes()) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != ".lock")
            .collect();
        names.sort();
        names
    }

    /// Returns the processes that work in this home.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let marker = format!("SMOLVM_HOME={}", self.path().display());
        let is_ours = |process: &Path| {
            fs::read(process.join("environ")).is_ok_and(|environment| {
                environment
                    .split(|&byte| byte == 0)
                    .any(|variable| variable == marker.as_bytes())
            })
        };
        fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
            .filter(|(_, path)| is_ours(path))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Waits until no process works in this home.
    pub(crate) fn wait_until_quiet(&self) {
        wait_for("the processes of the home to end", || {
            self.processes().is_empty().then_some(())
        });
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What is left is looked at in vain once the directory is gone.
            for pid in self.processes() {
                kill(pid, Signal::KILL);
            }
            return;
        }
        self.wait_until_quiet();
        assert_eq!(self.entries(), [""; 0], "left in the home");
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: code_of(output.status),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("messages are text"),
        }
    }
}

impl Ended {
    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// Returns standard output as the one JSON document it must be.
    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that the command succeeded and said `stdout`.
    #[track_caller]
    pub(crate) fn said(&self, stdout: &str) {
        assert_eq!((self.code, self.stdout()), (0, stdout), "{}", self.stderr);
    }
}

/// Returns the exit code, or 128 + n for signal n.
pub(crate) fn code_of(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .expect("ended by one of the two")
}

/// Waits for the end of a child whose input stays open.
pub(crate) fn end_of(mut child: Child) -> Ended {
    let input = child.stdin.take();
    let ended = Ended::from(child.wait_with_output().expect("smolvm ends"));
    drop(input);
    ended
}

/// Sends a signal to a process that a test started.
pub(crate) fn kill(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("not zero");
    // It may have ended meanwhile.
    let _ended = kill_process(pid, signal);
}

/// Sends a signal to a child.
pub(crate) fn signal(child: &Child, signal: Signal) {
    kill(i32::try_from(child.id()).expect("a process ID"), signal);
}

/// Looks until there is something to see.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}
