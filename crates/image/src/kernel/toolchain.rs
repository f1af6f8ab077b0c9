//! What a kernel is built with: programs and headers of the host.

use std::path::Path;

use crate::command::{CommandError, Invocation, Program, SEARCH_PATH};
use crate::kernel::KernelError;

pub(super) const MAKE: Program = Program {
    name: "make",
    package: "make",
};
const GCC: Program = Program {
    name: "gcc",
    package: "gcc",
};
const LD: Program = Program {
    name: "ld",
    package: "binutils",
};
pub(super) const STRIP: Program = Program {
    name: "strip",
    package: "binutils",
};

/// The programs that the kernel's makefiles start and that a host may lack (Linux
/// Documentation/process/changes.rst).
const PROGRAMS: [Program; 7] = [
    MAKE,
    GCC,
    LD,
    STRIP,
    Program {
        name: "flex",
        package: "flex",
    },
    Program {
        name: "bison",
        package: "bison",
    },
    Program {
        name: "bc",
        package: "bc",
    },
];

/// Headers of libraries that the kernel's own tools are linked with: objtool reads the objects that
/// were compiled.
const HEADERS: [(&str, &str); 2] = [("gelf.h", "libelf-dev"), ("stdlib.h", "libc6-dev")];

/// Where the compiler looks for headers on Debian.
const HEADER_DIRECTORIES: [&str; 3] = [
    "/usr/local/include",
    "/usr/include",
    "/usr/include/x86_64-linux-gnu",
];

/// Fails, naming everything that is missing, when a kernel cannot be built on this host.
pub(super) fn check() -> Result<(), KernelError> {
    check_in(SEARCH_PATH, &HEADER_DIRECTORIES.map(Path::new))
}

fn check_in(search_path: &str, header_directories: &[&Path]) -> Result<(), KernelError> {
    let programs = PROGRAMS
        .iter()
        .filter(|program| program.find_in(search_path).is_none())
        .map(|program| (program.name, program.package));
    let has = |header: &str| {
        let mut directories = header_directories.iter();
        directories.any(|directory| directory.join(header).is_file())
    };
    let headers = HEADERS.iter().filter(|(header, _)| !has(header)).copied();
    let (missing, mut packages): (Vec<_>, Vec<_>) = programs.chain(headers).unzip();
    // Two programs of one package follow each other.
    packages.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    Err(KernelError::ToolsMissing { missing, packages })
}

/// Returns what the compiler and the linker call themselves: others make other kernels.
pub(super) fn versions(directory: &Path) -> Result<String, CommandError> {
    let mut versions = Vec::new();
    for program in [GCC, LD] {
        let output = Invocation::new(program, directory)?
            .args(["--version"])
            .output()?;
        let text = String::from_utf8_lossy(&output);
        versions.push(text.lines().next().unwrap_or_default().trim().to_owned());
    }
    Ok(versions.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A directory with every program but `absent`, and with `headers`.
    fn host(absent: &[&str], headers: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for program in PROGRAMS
            .iter()
            .filter(|program| !absent.contains(&program.name))
        {
            let path = directory.path().join(program.name);
            File::create(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for header in headers {
            File::create(directory.path().join(header)).unwrap();
        }
        directory
    }

    fn check_of(host: &tempfile::TempDir) -> Result<(), KernelError> {
        check_in(host.path().to_str().unwrap(), &[host.path()])
    }

    #[test]
    fn a_host_with_everything_can_build() {
        assert!(check_of(&host(&[], &["gelf.h", "stdlib.h"])).is_ok());
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let host = host(&["flex", "ld", "strip", "bc"], &["stdlib.h"]);
        let error = check_of(&host).unwrap_err();
        assert_eq!(
            error.to_string(),
            "building a kernel needs what is not installed: ld, strip, flex, bc, gelf.h"
        );
        let KernelError::ToolsMissing { packages, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(packages, ["binutils", "flex", "bc", "libelf-dev"]);
    }
}
