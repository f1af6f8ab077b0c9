//! The jail a VMM runs in, entered by a launcher process that then is, or becomes, the VMM.
//!
//! A guest that takes its VMM over finds itself with: namespaces of its own where the host allows
//! them ([`Namespaces`]), no right to gain rights (`no_new_privs`), no file but those of its own
//! sandbox and the VMM's program files (Landlock), no TCP port and no process outside to signal (Landlock), no core dump, few
//! descriptors, no file larger than its own disk (limits), and an end when its supervisor ends.
//!
//! The launcher is a process of its own because all of this then needs no code between fork and
//! exec: it is an ordinary single-threaded program, `smolvm-vmm`. What is to be its jail stands in
//! its standard input, as JSON, so that those who look at the host's processes see whose machine it
//! is instead.

#![deny(unsafe_code)]

mod namespaces;
#[expect(unsafe_code, reason = "leaves namespaces; the module says how")]
mod sys;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, PathFdError, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};

pub use namespaces::Namespaces;

/// Newest Landlock version whose restrictions are asked for; an older kernel gives what it has.
/// Version 6 (Linux 6.12) added scopes (kernel, Documentation/userspace-api/landlock.rst).
const LANDLOCK_ABI: ABI = ABI::V6;

/// Descriptors a VMM may have open: its sockets, disks and event descriptors are below 100.
const MAX_DESCRIPTORS: u64 = 512;

/// Longest plan that is read, in bytes. A real one is below 64 KiB: some paths and the arguments of
/// a VMM.
const MAX_PLAN_BYTES: u64 = 1024 * 1024;

/// Everything a launcher needs to know, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailPlan {
    /// The program to become; without one, the launcher itself stays.
    pub program: Option<Program>,
    /// Files and directory trees it may read and execute; those that do not exist are skipped.
    pub readable: Vec<PathBuf>,
    /// Files and devices it may read and write; those that do not exist are skipped.
    pub writable: Vec<PathBuf>,
    /// Largest file it may write, in bytes.
    pub max_file_bytes: u64,
    /// Process ID of the supervisor, with which it dies.
    pub supervisor_pid: u32,
}

/// What a launcher becomes in its jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Why a jail could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The plan could not be read.
    #[error("read the plan of the jail")]
    Plan(#[source] io::Error),
    /// The supervisor is dead already.
    #[error("start under a supervisor that has ended")]
    Orphaned,
    /// A limit or attribute of the process could not be set.
    #[error("set {what}")]
    Process {
        /// What was to be set.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Landlock refused the rules.
    #[error("restrict file access")]
    Landlock(#[from] RulesetError),
    /// A path that exists could not be opened.
    #[error("open a path for the restriction of file access")]
    Path(#[from] PathFdError),
    /// The program could not be executed.
    #[error("execute {}", program.display())]
    Execute {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl JailPlan {
    /// Reads the plan from this process's standard input, and leaves nothing there to be read.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is none.
    pub fn from_standard_input() -> Result<Self, JailError> {
        let mut text = Vec::new();
        let read = io::stdin().take(MAX_PLAN_BYTES).read_to_end(&mut text);
        let nothing = read.and_then(|_| File::open("/dev/null"));
        let plan = nothing.and_then(|nothing| {
            rustix::stdio::dup2_stdin(nothing)?;
            Ok(serde_json::from_slice(&text)?)
        });
        plan.map_err(JailError::Plan)
    }

    /// Enters the jail and becomes its program, where it has one: then this returns only when that
    /// fails.
    ///
    /// Preconditions: the process has one thread.
    ///
    /// # Errors
    ///
    /// The first step that fails; what is in force then is not known.
    pub fn enter(&self) -> Result<(), JailError> {
        self.restrict_self()?;
        let Some(program) = &self.program else {
            return Ok(());
        };
        let mut become_it = std::process::Command::new(&program.path);
        Err(JailError::Execute {
            program: program.path.clone(),
            source: become_it.args(&program.arguments).env_clear().exec(),
        })
    }

    fn restrict_self(&self) -> Result<(), JailError> {
        // The host may allow none; what they keep away is restricted below, too.
        let _as_far_as_allowed = namespaces::enter(self.readable.iter().chain(&self.writable));
        die_with(self.supervisor_pid)?;
        set_limit("the limit of core dumps", Resource::Core, 0)?;
        set_limit("the limit of open files", Resource::Nofile, MAX_DESCRIPTORS)?;
        set_limit(
            "the limit of file sizes",
            Resource::Fsize,
            self.max_file_bytes,
        )?;
        // restrict_self of Landlock sets no_new_privs, but only where the kernel has Landlock.
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| process_error("no_new_privs", error))?;
        restrict_access(&self.readable, &self.writable)?;
        Ok(())
    }
}

/// Has the calling thread, and those that it starts from now on, read and execute nothing but
/// `readable`, write nothing but `writable`, and reach nobody outside. Paths that do not exist are
/// skipped.
///
/// Returns how far the kernel can do so.
///
/// # Errors
///
/// When the kernel refuses, or a path that exists cannot be opened.
pub fn restrict_access(
    readable: &[PathBuf],
    writable: &[PathBuf],
) -> Result<FileRestriction, JailError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK_ABI))?
        .handle_access(AccessNet::from_all(LANDLOCK_ABI))?
        .scope(Scope::from_all(LANDLOCK_ABI))?
        .create()?;
    let ruleset = allow(ruleset, readable, AccessFs::from_read(LANDLOCK_ABI))?;
    let ruleset = allow(
        ruleset,
        writable,
        AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
    )?;
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => FileRestriction::Full,
        RulesetStatus::PartiallyEnforced => FileRestriction::Partial,
        RulesetStatus::NotEnforced => FileRestriction::None,
    })
}

fn allow(
    ruleset: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, JailError> {
    let mut ruleset = ruleset;
    for path in paths {
        let Ok(metadata) = std::fs::metadata(path) else {
            continue;
        };
        // Rights on a directory's entries mean nothing for a file, and Landlock refuses them.
        let access = if metadata.is_dir() {
            access
        } else {
            access & AccessFs::from_file(LANDLOCK_ABI)
        };
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
    }
    Ok(ruleset)
}

/// Has the kernel kill this process when its parent dies (prctl(2), `PR_SET_PDEATHSIG`).
fn die_with(supervisor_pid: u32) -> Result<(), JailError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| process_error("the signal at the supervisor's death", error))?;
    // A parent that died before the call above sends no signal.
    let parent = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    if parent.and_then(|pid| u32::try_from(pid.get()).ok()) == Some(supervisor_pid) {
        Ok(())
    } else {
        Err(JailError::Orphaned)
    }
}

fn set_limit(what: &'static str, resource: Resource, value: u64) -> Result<(), JailError> {
    let limit = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    rustix::process::setrlimit(resource, limit).map_err(|error| process_error(what, error))
}

fn process_error(what: &'static str, error: rustix::io::Errno) -> JailError {
    JailError::Process {
        what,
        source: error.into(),
    }
}

/// Finds out which namespaces this host allows, by entering them.
///
/// Preconditions: the process has one thread, and ends afterwards.
#[must_use]
pub fn try_namespaces() -> Namespaces {
    namespaces::enter([PathBuf::from("/usr")].iter())
}

/// How far this host's kernel can restrict file access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRestriction {
    /// All of it.
    Full,
    /// Some of it: the kernel's Landlock is older than what is asked for.
    Partial,
    /// None: the kernel has no Landlock, or it is switched off.
    None,
}

/// Finds out how far this host's kernel can restrict file access, without restricting anything.
///
/// Preconditions: call on a thread that ends afterwards, since Landlock restricts the calling
/// thread; this function starts one itself.
#[must_use]
pub fn file_restriction() -> FileRestriction {
    match std::thread::spawn(|| restrict_access(&[], &[])).join() {
        Ok(Ok(restriction)) => restriction,
        _ => FileRestriction::None,
    }
}
