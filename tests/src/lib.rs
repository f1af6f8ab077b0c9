//! The fixture of the end-to-end scenarios: a host of its own for each test.
//!
//! A [`Host`] has its own data directory and the user's real cache, and runs the real `smolvm`
//! of `target/release`. When it is dropped, nothing may be left: no process, no socket, no file.

pub mod alpine_mirror;
pub mod lab;
pub mod library;
pub mod roots;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

/// Longest time anything in a scenario may take: boots are a few seconds each on a busy host.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A host of a test's own.
#[derive(Debug)]
pub struct Host {
    home: tempfile::TempDir,
    environment: Vec<(String, String)>,
    /// The command that starts `smolvm`, where it is not started as it is.
    launcher: Vec<OsString>,
}

/// What a command has done.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; 128 + n after signal n.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Error output.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Returns standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns error output as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Returns the one JSON document on standard output.
    ///
    /// # Panics
    ///
    /// When it is not one.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the outcome if the command succeeded.
    ///
    /// # Panics
    ///
    /// When it did not.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.text(), self.errors());
        self
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Returns a host without sandboxes.
    ///
    /// # Panics
    ///
    /// When its directory cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let home = tempfile::Builder::new()
            .prefix("smolvm-test-")
            .tempdir()
            .expect("directory");
        Self {
            home,
            environment: Vec::new(),
            launcher: Vec::new(),
        }
    }

    /// Returns the same host with every command started by this one.
    #[must_use]
    pub(crate) fn started_by(mut self, launcher: Vec<OsString>) -> Self {
        self.launcher = launcher;
        self
    }

    /// Returns the same host with a variable of the environment set for every command.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns the host's own directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.home.path()
    }

    /// Returns the directory of the sandbox `name`.
    #[must_use]
    pub fn sandbox(&self, name: &str) -> PathBuf {
        self.data_dir().join("sandboxes").join(name)
    }

    fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Returns a `smolvm` command on this host.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut words = self.launcher.clone();
        words.push(binary("smolvm").into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(arguments)
            .env("SMOLVM_DATA_DIR", self.data_dir())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `smolvm` with `arguments` to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be run or takes longer than [`PATIENCE`].
    #[must_use]
    pub fn smolvm<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Outcome {
        finish(
            self.command(arguments).spawn().expect("smolvm is built"),
            b"",
        )
    }

    /// Runs `smolvm` with `arguments` and `input` on its standard input.
    ///
    /// # Panics
    ///
    /// As [`Host::smolvm`].
    #[must_use]
    pub fn smolvm_with_input<S: AsRef<OsStr>>(&self, arguments: &[S], input: &[u8]) -> Outcome {
        let child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("smolvm is built");
        finish(child, input)
    }

    /// Creates and starts the sandbox `name`, with `options` of `create`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(&self, name: &str, options: &[&str]) {
        let create = [&["create", "--name", name][..], options].concat();
        let _created = self.smolvm(&create).ok();
        let _started = self.smolvm(&["start", name]).ok();
    }

    /// Runs a shell line in the sandbox `name`.
    #[must_use]
    pub fn sh(&self, name: &str, line: &str) -> Outcome {
        self.smolvm(&["exec", name, "--", "sh", "-c", line])
    }

    /// Returns the processes that belong to this host, by what is on their command line.
    #[must_use]
    pub fn processes(&self) -> Vec<(u32, String)> {
        let home = self.home.path().as_os_str().as_bytes();
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let pids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let is_ours = line.windows(home.len()).any(|window| window == home);
            is_ours.then(|| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect()
    }

    /// Returns the process of the one machine that runs.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn vmm(&self) -> u32 {
        let processes = self.processes();
        let is_vmm = |line: &str| {
            let program = line.split(' ').next().unwrap_or_default();
            program.ends_with("qemu-system-x86_64") || program.ends_with("smolvm-vmm")
        };
        let found = processes.iter().find(|(_, line)| is_vmm(line));
        found
            .unwrap_or_else(|| panic!("no process is a VMM: {processes:?}"))
            .0
    }

    /// Returns the process whose command line contains `word`.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn process(&self, word: &str) -> u32 {
        let processes = self.processes();
        let found = processes.iter().find(|(_, line)| line.contains(word));
        found
            .unwrap_or_else(|| panic!("no process has {word:?}: {processes:?}"))
            .0
    }

    /// Returns the files and directories of sandboxes, and of halves of them.
    #[must_use]
    pub fn remains(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.data_dir().join("sandboxes")) else {
            return Vec::new();
        };
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name != ".lock").collect()
    }

    /// Waits until `is_so` holds.
    ///
    /// # Panics
    ///
    /// When it does not within [`PATIENCE`].
    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(
                Instant::now() < deadline,
                "{what} did not come: {:?}",
                self.processes()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _deleted = finish(
            self.command(&["delete", "--all"])
                .spawn()
                .expect("smolvm is built"),
            b"",
        );
        if std::thread::panicking() {
            return;
        }
        self.wait_until("the end of all processes", |host| {
            host.processes().is_empty()
        });
        assert_eq!(self.remains(), Vec::<String>::new(), "left behind");
    }
}

/// Waits for a child, feeding it `input`, and collects what it writes.
fn finish(mut child: Child, input: &[u8]) -> Outcome {
    let collect = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                stream.read_to_end(&mut bytes).expect("readable pipe");
            }
            bytes
        })
    };
    let stdout = collect(child.stdout.take().map(|stream| Box::new(stream) as _));
    let stderr = collect(child.stderr.take().map(|stream| Box::new(stream) as _));
    if let Some(mut stdin) = child.stdin.take() {
        // A command may end without having read all of its input.
        let _unread = stdin.write_all(input);
    }
    let status = wait(&mut child);
    Outcome {
        code: status,
        stdout: stdout.join().expect("collector"),
        stderr: stderr.join().expect("collector"),
    }
}

/// Waits for a child and returns its exit code.
///
/// # Panics
///
/// When it takes longer than [`PATIENCE`]; it is then killed.
pub fn wait(child: &mut Child) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;

    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("own child") {
            return status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        }
        if Instant::now() > deadline {
            child.kill().expect("own child");
            child.wait().expect("own child");
            panic!("child still ran after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a process at once (signal 9).
///
/// # Panics
///
/// When there is no such process.
pub fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

/// Asks a process to end (signal 15), as a host does that shuts down.
///
/// # Panics
///
/// When there is no such process.
pub fn terminate(pid: u32) {
    send(pid, Signal::TERM);
}

/// Holds a process still for a time, as a busy host does.
///
/// # Panics
///
/// When there is no such process.
pub fn hold_up(pid: u32, duration: Duration) {
    send(pid, Signal::STOP);
    std::thread::sleep(duration);
    send(pid, Signal::CONT);
}

fn send(pid: u32, signal: Signal) {
    let raw = i32::try_from(pid).expect("a process ID");
    let pid = rustix::process::Pid::from_raw(raw).expect("not zero");
    rustix::process::kill_process(pid, signal).expect("alive");
}

/// Returns the user's cache of kernels and images, where `smolvm` looks for it.
///
/// # Panics
///
/// When the environment does not say where that is.
#[must_use]
pub fn cache_dir() -> PathBuf {
    if let Some(directory) = std::env::var_os("SMOLVM_CACHE_DIR") {
        return directory.into();
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache"));
    base.join("smolvm")
}

/// Returns the path of a program of this project, as `cargo xtask build` leaves it, or where it was
/// copied to.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    match std::env::var_os("SMOLVM_TEST_PROGRAMS") {
        Some(directory) => Path::new(&directory).join(name),
        None => Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/release")
            .join(name),
    }
}
