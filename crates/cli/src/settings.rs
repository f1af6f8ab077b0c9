//! What applies to this invocation: flags, then the environment, then defaults.
//!
//! The only file that reads the environment or `$HOME`. Resolved once, before any command runs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use smolvm_sandbox::{EngineChoice, ErrorKind, Installation};
use tracing::level_filters::LevelFilter;

use crate::failure::Failure;
use crate::values;

/// Everything that is not an argument of one command.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where programs and files are.
    pub(crate) installation: Installation,
    /// The engine that the environment asks for, when no flag does.
    pub(crate) engine: EngineChoice,
    /// Whether output is one JSON document.
    pub(crate) is_json: bool,
    /// Whether standard output shows colours.
    pub(crate) has_stdout_colour: bool,
    /// Whether standard error shows colours and progress bars.
    pub(crate) has_stderr_colour: bool,
    /// What is logged to standard error.
    pub(crate) log_level: LevelFilter,
    /// The private key of `smolvm ssh`, which need not exist.
    pub(crate) ssh_key: Option<PathBuf>,
    /// The terminal's type, for programs in the guest that run on it.
    pub(crate) terminal_type: Option<OsString>,
}

impl Settings {
    /// Resolves the settings of this invocation.
    pub(crate) fn resolve(is_json: bool) -> Result<Self, Failure> {
        let has_colour = variable("NO_COLOR").is_none()
            && variable("TERM").as_deref() != Some(OsStr::new("dumb"));
        Ok(Self {
            installation: installation()?,
            engine: engine()?,
            is_json,
            has_stdout_colour: has_colour && std::io::stdout().is_terminal(),
            has_stderr_colour: has_colour && std::io::stderr().is_terminal(),
            log_level: log_level(),
            ssh_key: env::home_dir().map(|home| home.join(".smolvm/keys/id_ed25519")),
            terminal_type: variable("TERM"),
        })
    }
}

/// Returns a variable of the environment, to be passed on to a guest.
pub(crate) fn passed_on(name: &OsStr) -> Option<OsString> {
    env::var_os(name)
}

/// Returns a variable that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn engine() -> Result<EngineChoice, Failure> {
    let Some(name) = variable("SMOLVM_BACKEND") else {
        return Ok(EngineChoice::default());
    };
    values::engine(&name.to_string_lossy()).map_err(|reason| {
        Failure::new(ErrorKind::InvalidInput, format!("SMOLVM_BACKEND: {reason}"))
            .hint("unset SMOLVM_BACKEND, or set it to auto, kvm or qemu")
    })
}

fn log_level() -> LevelFilter {
    variable("SMOLVM_LOG")
        .and_then(|level| level.to_str()?.parse().ok())
        .unwrap_or(LevelFilter::WARN)
}

fn installation() -> Result<Installation, Failure> {
    let smolvm = env::current_exe().map_err(|error| {
        Failure::new(
            ErrorKind::Host,
            format!("find the path of this program: {error}"),
        )
    })?;
    let smolvm = smolvm.canonicalize().unwrap_or(smolvm);
    Ok(Installation {
        data_dir: directory("SMOLVM_DATA_DIR", "data", "XDG_STATE_HOME", ".local/state")?,
        cache_dir: directory("SMOLVM_CACHE_DIR", "cache", "XDG_CACHE_HOME", ".cache")?,
        vmm: companion("SMOLVM_VMM", "smolvm-vmm", &smolvm),
        agent: companion("SMOLVM_AGENT", "smolvm-agent", &smolvm),
        qemu: in_search_path("qemu-system-x86_64"),
        smolvm,
    })
}

/// Returns the directory that `own` names, or the one below `SMOLVM_HOME`, or the one of the XDG
/// base directory specification (version 0.8).
fn directory(own: &str, below_home: &str, xdg: &str, default: &str) -> Result<PathBuf, Failure> {
    let chosen = variable(own)
        .map(PathBuf::from)
        .or_else(|| variable("SMOLVM_HOME").map(|home| PathBuf::from(home).join(below_home)))
        .or_else(|| {
            // A relative path in these variables is to be ignored, says the specification.
            variable(xdg)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .map(|base| base.join("smolvm"))
        })
        .or_else(|| Some(env::home_dir()?.join(default).join("smolvm")));
    // A supervisor has another working directory, so no path stays relative.
    chosen
        .filter(|path| !path.as_os_str().is_empty())
        .and_then(|path| std::path::absolute(path).ok())
        .ok_or_else(|| {
            Failure::new(ErrorKind::Host, format!("find a place for {below_home}"))
                .hint("set SMOLVM_HOME to a directory that may be written to")
        })
}

/// Returns the program `name` that belongs to `smolvm`: beside it, or in `../lib/smolvm`.
fn companion(variable_name: &str, name: &str, smolvm: &Path) -> PathBuf {
    if let Some(path) = variable(variable_name) {
        return std::path::absolute(&path).unwrap_or_else(|_| path.into());
    }
    let beside = smolvm.with_file_name(name);
    let library = smolvm
        .parent()
        .and_then(Path::parent)
        .map(|prefix| prefix.join("lib/smolvm").join(name));
    match library {
        Some(library) if !beside.exists() && library.exists() => library,
        _ => beside,
    }
}

fn in_search_path(program: &str) -> Option<PathBuf> {
    let is_executable = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let search_path = variable("PATH")?;
    env::split_paths(&search_path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(is_executable)
}
