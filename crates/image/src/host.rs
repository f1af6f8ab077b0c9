//! What the host must have for artefacts to be prepared, for those who check it beforehand.

use std::path::PathBuf;

use crate::command::Program;
use crate::kernel::{APT_GET, DPKG_DEB};
use crate::overlay::MKFS_EXT4;
use crate::root_image::{MMDEBSTRAP, NEWUIDMAP, SQFSTAR};

/// The programs without which something cannot be prepared.
const PROGRAMS: [Program; 5] = [APT_GET, DPKG_DEB, MKFS_EXT4, MMDEBSTRAP, SQFSTAR];

/// A program of the host that preparing needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProgram {
    /// Its name.
    pub name: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
    /// Where it is, when it is installed.
    pub path: Option<PathBuf>,
}

/// Returns the programs that preparing needs, installed or not.
#[must_use]
pub fn host_programs() -> Vec<HostProgram> {
    // Only mmdebstrap's unshare mode, which ordinary users get, maps user ids.
    let is_root = rustix::process::geteuid().is_root();
    let for_users = [NEWUIDMAP].into_iter().filter(|_| !is_root);
    PROGRAMS
        .into_iter()
        .chain(for_users)
        .map(|program| HostProgram {
            name: program.name,
            package: program.package,
            path: program.find().ok(),
        })
        .collect()
}
