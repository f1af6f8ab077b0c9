//! Where the programs and files are: the bundled programs, and the environment's directories.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use smolvm_sandbox::Installation;

use crate::failure::Failure;

/// Resolves the installation. `data_dir` is the caller's; `bundled` the package's own programs.
pub(crate) fn installation(
    data_dir: Option<&Path>,
    bundled: &Path,
) -> Result<Installation, Failure> {
    let programs = variable("SMOLVM_BINARY_DIR").map_or_else(|| bundled.to_owned(), PathBuf::from);
    let program = |own: &str, name: &str| {
        absolute(variable(own).map_or_else(|| programs.join(name), PathBuf::from))
    };
    let data_dir = match data_dir {
        Some(directory) => absolute(directory.to_owned()),
        None => directory("SMOLVM_DATA_DIR", "data", "XDG_STATE_HOME", ".local/state")?,
    };
    Ok(Installation {
        data_dir,
        cache_dir: directory("SMOLVM_CACHE_DIR", "cache", "XDG_CACHE_HOME", ".cache")?,
        smolvm: absolute(programs.join("smolvm")),
        vmm: program("SMOLVM_VMM", "smolvm-vmm"),
        agent: program("SMOLVM_AGENT", "smolvm-agent"),
        qemu: in_search_path("qemu-system-x86_64"),
    })
}

/// Returns a variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns a path that means the same in every directory: programs are started elsewhere.
pub(crate) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Returns the directory that `own` names, or the one below `SMOLVM_HOME`, or the one of the XDG
/// base directory specification (version 0.8).
fn directory(own: &str, below_home: &str, xdg: &str, default: &str) -> Result<PathBuf, Failure> {
    let xdg_base = || {
        // A relative path in these variables is to be ignored, says the specification.
        variable(xdg)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    variable(own)
        .map(PathBuf::from)
        .or_else(|| variable("SMOLVM_HOME").map(|home| PathBuf::from(home).join(below_home)))
        .or_else(|| xdg_base().map(|base| base.join("smolvm")))
        .or_else(|| Some(env::home_dir()?.join(default).join("smolvm")))
        .map(absolute)
        .ok_or_else(|| {
            Failure::argument(
                "SMOLVM_HOME",
                "there is no home directory; set it to a directory that may be written to",
            )
        })
}

fn in_search_path(program: &str) -> Option<PathBuf> {
    let is_executable = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&variable("PATH")?)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(is_executable)
}
