//! The initial file system: the agent as `/init`, the kernel's modules, and nothing else.
//!
//! The layout is what `smolvm-protocol` promises the agent. The archive is not compressed:
//! unpacking costs a guest more than reading a few megabytes, most of all under emulation, and
//! any kernel takes it. Equal inputs give equal bytes.

mod cpio;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use smolvm_protocol::{
    BOOT_MODULE_LIST, LATE_MODULE_LIST, MODULE_DIRECTORY, NETWORK_MODULE_LIST, SOCKET_MODULE_LIST,
};

use crate::cache::{
    Artefact, ArtefactKind, Cache, CacheError, Inputs, Key, Staging, Stamp, io_error,
};
use crate::digest::Digest;
use crate::kernel::Kernel;
use crate::progress::{Progress, step};
use cpio::CpioWriter;

/// File name inside the artefact.
const ARCHIVE_FILE: &str = "initramfs.cpio";

/// Version of the archive's layout; part of the key.
const FORMAT: u32 = 1;

/// Names of the artefact's inputs.
const AGENT_STAMP: &str = "agent-stamp";
const KERNEL: &str = "kernel";

/// Directories the agent mounts things on.
const DIRECTORIES: [&str; 8] = [
    "dev",
    "newroot",
    "overlay",
    "proc",
    "root-image",
    "run",
    "sys",
    "tmp",
];

/// Device number of /dev/console (Linux Documentation/admin-guide/devices.txt).
const CONSOLE_MAJOR: u32 = 5;
const CONSOLE_MINOR: u32 = 1;

/// Where an archive after another begins; the format asks for four bytes.
const JOINT_ALIGNMENT: usize = 4096;

/// Largest agent that is packed; a debug build is some 60 MB.
const MAX_AGENT_BYTES: u64 = 512 << 20;

/// An initial file system ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initramfs {
    /// The cpio archive.
    pub path: PathBuf,
    /// Digest of the archive.
    pub digest: Digest,
}

/// Why there is no initial file system.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The cache failed.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// The agent cannot be read.
    #[error("cannot read the agent {}", path.display())]
    Agent {
        /// The agent.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent is not an x86-64 executable.
    #[error("the agent {} is not an x86-64 executable", path.display())]
    AgentNotExecutable {
        /// The agent.
        path: PathBuf,
        /// What the ELF parser said, unless the file is ELF for something else.
        source: Option<object::Error>,
    },
    /// The agent needs a dynamic linker, which the initial file system does not have.
    #[error("the agent {} is not statically linked", path.display())]
    AgentNotStatic {
        /// The agent.
        path: PathBuf,
    },
    /// The initial file system that is to come before ours cannot be put there.
    #[error("cannot {action} {}", path.display())]
    Join {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A module of the kernel cannot be read.
    #[error("cannot read the module {}", path.display())]
    Module {
        /// The module.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Returns the initial file system for `kernel` and the agent binary `agent`, packing it when
/// this pair is new.
///
/// # Errors
///
/// When the agent is not a static x86-64 executable, or the archive cannot be stored.
pub fn initramfs(
    cache: &Cache,
    kernel: &Kernel,
    agent: &Path,
    progress: &dyn Progress,
) -> Result<Initramfs, InitramfsError> {
    let agent_error = |source| InitramfsError::Agent {
        path: agent.to_owned(),
        source,
    };
    // The stamp is taken before the bytes: if the file changes in between, the stamp is stale
    // and the next call reads the file again.
    let metadata = fs::metadata(agent).map_err(agent_error)?;
    let stamp = format!("{} {}", metadata.len(), Stamp::of(&metadata).to_text());
    let key = key(kernel);
    let is_same_agent = |artefact: &Artefact| artefact.input(AGENT_STAMP) == stamp;
    if let Some(artefact) = cache.find(&key, progress, is_same_agent)? {
        return Ok(Initramfs::from_artefact(&artefact));
    }
    let bytes = read_agent(agent)?;
    check_program(agent, &bytes)?;
    let artefact = cache.obtain(&key, progress, is_same_agent, |staging| {
        step(progress, "packing the initial file system", None, || {
            pack(staging, kernel, &bytes)
        })?;
        let inputs = [
            (AGENT_STAMP, stamp.clone()),
            (KERNEL, kernel.digest.to_string()),
        ];
        Ok::<Inputs, InitramfsError>(inputs.map(|(name, value)| (name.to_owned(), value)).into())
    })?;
    Ok(Initramfs::from_artefact(&artefact))
}

/// One key per kernel: the agents packed for it are told apart by their stamps.
fn key(kernel: &Kernel) -> Key {
    let recipe = format!("{FORMAT} {}", kernel.digest);
    let digest = Digest::of_bytes(recipe.as_bytes()).short();
    Key::new(ArtefactKind::Initramfs, format!("agent-{digest}"))
}

impl Initramfs {
    fn from_artefact(artefact: &Artefact) -> Self {
        let recorded = artefact.file(ARCHIVE_FILE);
        let digest = recorded.map_or_else(|| artefact.digest(), |(digest, _)| digest);
        Self {
            path: artefact.path(ARCHIVE_FILE),
            digest,
        }
    }
}

/// Checks that `agent` is a program that a guest can run with nothing else in its file system.
///
/// # Errors
///
/// When it cannot be read, or is not a static x86-64 executable.
pub fn check_agent(agent: &Path) -> Result<(), InitramfsError> {
    check_program(agent, &read_agent(agent)?)
}

/// Writes `target`: the archive `first`, whatever its compression, then the archive `second`.
///
/// A kernel unpacks both in this order, so that files of the second replace those of the first
/// (Linux Documentation/driver-api/early-userspace/buffer-format.rst). `target` is replaced.
///
/// # Errors
///
/// When a file cannot be read or written.
pub fn join_initramfs(first: &Path, second: &Path, target: &Path) -> Result<(), InitramfsError> {
    let error = |action, path: &Path| {
        let path = path.to_owned();
        move |source| InitramfsError::Join {
            action,
            path,
            source,
        }
    };
    let mut output = File::create(target).map_err(error("create", target))?;
    let mut written = 0;
    for path in [first, second] {
        let padding = written_padding(written);
        output
            .write_all(&[0; JOINT_ALIGNMENT][..padding])
            .map_err(error("write", target))?;
        let mut input = File::open(path).map_err(error("open", path))?;
        written = io::copy(&mut input, &mut output).map_err(error("copy", path))?;
    }
    Ok(())
}

/// Returns how many zero bytes bring `written` bytes to where the next archive may begin.
fn written_padding(written: u64) -> usize {
    let rest = usize::try_from(written % JOINT_ALIGNMENT as u64).unwrap_or(0);
    (JOINT_ALIGNMENT - rest) % JOINT_ALIGNMENT
}

fn read_agent(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    let agent_error = |source| InitramfsError::Agent {
        path: path.to_owned(),
        source,
    };
    let length = fs::metadata(path).map_err(agent_error)?.len();
    if length > MAX_AGENT_BYTES {
        return Err(agent_error(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(agent_error)
}

fn check_program(path: &Path, bytes: &[u8]) -> Result<(), InitramfsError> {
    let not_executable = |source| InitramfsError::AgentNotExecutable {
        path: path.to_owned(),
        source,
    };
    let damaged = |source| not_executable(Some(source));
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let file_type = header.e_type(endian);
    if header.e_machine(endian) != EM_X86_64 || (file_type != ET_EXEC && file_type != ET_DYN) {
        return Err(not_executable(None));
    }
    let segments = header.program_headers(endian, bytes).map_err(damaged)?;
    if segments
        .iter()
        .any(|segment| segment.p_type(endian) == PT_INTERP)
    {
        return Err(InitramfsError::AgentNotStatic {
            path: path.to_owned(),
        });
    }
    Ok(())
}

fn pack(staging: &Staging, kernel: &Kernel, agent: &[u8]) -> Result<(), InitramfsError> {
    let path = staging.output().join(ARCHIVE_FILE);
    let write_error = |source| InitramfsError::from(io_error("write", &path, source));
    let file = File::create(&path).map_err(write_error)?;
    let mut cpio = CpioWriter::new(BufWriter::new(file));
    for directory in DIRECTORIES {
        cpio.directory(directory, 0o755).map_err(write_error)?;
    }
    cpio.character_device("dev/console", 0o600, CONSOLE_MAJOR, CONSOLE_MINOR)
        .map_err(write_error)?;
    cpio.file("init", 0o755, agent).map_err(write_error)?;
    cpio.directory(in_archive(MODULE_DIRECTORY), 0o755)
        .map_err(write_error)?;
    for (list, modules) in [
        (BOOT_MODULE_LIST, &kernel.boot_modules),
        (LATE_MODULE_LIST, &kernel.late_modules),
        (NETWORK_MODULE_LIST, &kernel.network_modules),
        (SOCKET_MODULE_LIST, &kernel.socket_modules),
    ] {
        if modules.is_empty() {
            // An initramfs that comes before ours may bring modules and lists of its own.
            continue;
        }
        let mut names = String::new();
        for module in modules {
            let bytes = fs::read(module).map_err(|source| InitramfsError::Module {
                path: module.clone(),
                source,
            })?;
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            let target = format!("{}/{name}", in_archive(MODULE_DIRECTORY));
            cpio.file(&target, 0o644, &bytes).map_err(write_error)?;
            names.push_str(&name);
            names.push('\n');
        }
        cpio.file(in_archive(list), 0o644, names.as_bytes())
            .map_err(write_error)?;
    }
    cpio.finish()
        .and_then(|mut file| file.flush())
        .map_err(write_error)
}

/// Names in the archive are relative to the root.
fn in_archive(path: &str) -> &str {
    path.trim_start_matches('/')
}
