//! `packages`: the programs that the host's package manager provides.
//!
//! The table says what is needed and why; a row is there when its program is, however it came to
//! be installed. What is missing is installed with apt-get, through sudo when needed. On a host
//! without apt-get the task names the programs and leaves the rest to its owner. Nothing is
//! started when nothing is missing.
//!
//! An interrupted installation goes on at the next run: apt-get waits for what still runs, and
//! dpkg finishes what was unpacked.

mod apt;
mod finder;

use std::error::Error;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::TaskResult;
use crate::workspace::Workspace;
use apt::Apt;
use finder::Finder;

/// A program that SmolVM or its tests start.
#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    /// Name of the program's file, or an absolute path; see [`Finder::has`].
    program: &'static str,
    /// Debian package that holds it.
    package: &'static str,
    /// What it is for.
    reason: &'static str,
    /// Who needs it.
    needed_by: NeededBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NeededBy {
    Everyone,
    OrdinaryUsers,
    /// Those who run the tests or the benchmarks.
    Testers,
    /// Those who run something where KVM works.
    KvmTesters,
    /// Those who build the tuned kernel.
    KernelTesters,
}

/// What the packages are to be there for; each needs what using SmolVM needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Using SmolVM.
    Use,
    /// Its tests and benchmarks.
    Test,
    /// Running something where KVM works, which can take another kernel.
    TestOnKvm,
    /// Building the tuned kernel and testing it.
    TestKernel,
}

/// Who is to have what is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    is_root: bool,
    purpose: Purpose,
}

const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        reason: "runs microVMs on hosts without usable KVM",
        needed_by: NeededBy::Everyone,
    },
    Requirement {
        program: "mmdebstrap",
        package: "mmdebstrap",
        reason: "builds the default root image from Debian packages",
        needed_by: NeededBy::Everyone,
    },
    Requirement {
        program: "sqfstar",
        package: "squashfs-tools",
        reason: "packs the root image",
        needed_by: NeededBy::Everyone,
    },
    Requirement {
        program: "mke2fs",
        package: "e2fsprogs",
        reason: "formats the disks that sandboxes write to",
        needed_by: NeededBy::Everyone,
    },
    Requirement {
        program: "ssh-keygen",
        package: "openssh-client",
        reason: "makes the keys that images with an SSH server let in",
        needed_by: NeededBy::Everyone,
    },
    Requirement {
        program: "ip",
        package: "iproute2",
        reason: "joins the network namespaces of the network's tests",
        needed_by: NeededBy::Testers,
    },
    Requirement {
        program: "curl",
        package: "curl",
        reason: "is a client in the network's tests",
        needed_by: NeededBy::Testers,
    },
    Requirement {
        program: "git",
        package: "git",
        reason: "makes the repository that the network's tests clone",
        needed_by: NeededBy::Testers,
    },
    Requirement {
        program: "chromium",
        package: "chromium",
        reason: "shows browser sessions' live view to its tests, and is what they are measured beside",
        needed_by: NeededBy::Testers,
    },
    Requirement {
        program: "ffprobe",
        package: "ffmpeg",
        reason: "measures the videos of the browser's tests",
        needed_by: NeededBy::Testers,
    },
    Requirement {
        program: "busybox",
        package: "busybox-static",
        reason: "begins the host in which KVM works, for the tests of the engine kvm",
        needed_by: NeededBy::KvmTesters,
    },
    Requirement {
        program: "/lib/modules/*/kernel/fs/9p",
        package: "linux-image-amd64",
        reason: "is that host's kernel; it has its files from this host",
        needed_by: NeededBy::KvmTesters,
    },
    Requirement {
        program: "gcc",
        package: "gcc",
        reason: "compiles the tuned kernel",
        needed_by: NeededBy::KernelTesters,
    },
    Requirement {
        program: "make",
        package: "make",
        reason: "runs the build of the tuned kernel",
        needed_by: NeededBy::KernelTesters,
    },
    Requirement {
        program: "flex",
        package: "flex",
        reason: "makes scanners for the build of the tuned kernel",
        needed_by: NeededBy::KernelTesters,
    },
    Requirement {
        program: "bison",
        package: "bison",
        reason: "makes parsers for the build of the tuned kernel",
        needed_by: NeededBy::KernelTesters,
    },
    Requirement {
        program: "bc",
        package: "bc",
        reason: "calculates constants of the tuned kernel",
        needed_by: NeededBy::KernelTesters,
    },
    Requirement {
        program: "/usr/include/gelf.h",
        package: "libelf-dev",
        reason: "lets the tuned kernel's build look into what it compiled",
        needed_by: NeededBy::KernelTesters,
    },
    Requirement {
        program: "newuidmap",
        package: "uidmap",
        reason: "lets mmdebstrap build the root image without root",
        needed_by: NeededBy::OrdinaryUsers,
    },
];

/// Why packages are still missing.
#[derive(Debug, PartialEq, Eq)]
enum PackagesError {
    /// The host has no apt-get.
    NoApt { missing: Vec<&'static Requirement> },
    /// The user is not root and the host has no sudo.
    NoSudo { missing: Vec<&'static Requirement> },
    /// apt-get succeeded, and yet the programs are not there.
    NotProvided { missing: Vec<&'static Requirement> },
}

impl fmt::Display for PackagesError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoApt { missing } => write!(
                formatter,
                "this host has no apt-get; install these programs with its own package manager, \
                 then run this again: {}",
                listed(missing, |requirement| requirement.program)
            ),
            Self::NoSudo { missing } => write!(
                formatter,
                "installing packages takes root, and this host has no sudo; as root, run: \
                 apt-get install --no-install-recommends {}",
                missing
                    .iter()
                    .map(|requirement| requirement.package)
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
            Self::NotProvided { missing } => write!(
                formatter,
                "the packages are installed, but these programs are in no directory of PATH: {}",
                listed(missing, |requirement| requirement.program)
            ),
        }
    }
}

impl Error for PackagesError {}

/// File that is there while packages are being installed: a program's file can be in place long
/// before the libraries it needs.
const INSTALLING: &str = "xtask-installing-packages";

/// Installs what SmolVM needs.
pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    run_for(workspace, Purpose::Use)
}

/// Installs what this purpose needs.
pub(crate) fn run_for(workspace: &Workspace, purpose: Purpose) -> TaskResult {
    let finder = Finder::of_host();
    let user = User {
        is_root: is_root(),
        purpose,
    };
    let installing = workspace.target().join(INSTALLING);
    let wanted = if installing.exists() {
        eprintln!("host packages: an earlier installation was interrupted and goes on");
        needed(user)
    } else {
        missing(&finder, user)
    };
    if wanted.is_empty() {
        eprintln!("host packages: nothing is missing");
        return Ok(());
    }
    eprintln!("host packages to install:");
    for Requirement {
        package,
        program,
        reason,
        ..
    } in &wanted
    {
        eprintln!("  {package:<16} {reason} ({program})");
    }
    let apt = plan(&finder, user.is_root, &wanted)?;
    let packages: Vec<_> = wanted
        .iter()
        .map(|requirement| requirement.package)
        .collect();
    fs::create_dir_all(workspace.target())?;
    fs::write(&installing, "")?;
    apt.install(&packages)?;
    fs::remove_file(&installing)?;
    let still_missing = missing(&finder, user);
    if still_missing.is_empty() {
        Ok(())
    } else {
        Err(PackagesError::NotProvided {
            missing: still_missing,
        }
        .into())
    }
}

/// Returns the requirements of this kind of user.
fn needed(user: User) -> Vec<&'static Requirement> {
    let is_needed = |requirement: &&Requirement| match requirement.needed_by {
        NeededBy::Everyone => true,
        NeededBy::OrdinaryUsers => !user.is_root,
        NeededBy::Testers => user.purpose != Purpose::Use,
        NeededBy::KvmTesters => user.purpose == Purpose::TestOnKvm,
        NeededBy::KernelTesters => user.purpose == Purpose::TestKernel,
    };
    REQUIREMENTS.iter().filter(is_needed).collect()
}

/// Returns the requirements whose programs cannot be found.
fn missing(finder: &Finder, user: User) -> Vec<&'static Requirement> {
    let mut missing = needed(user);
    missing.retain(|requirement| !finder.has(requirement.program));
    missing
}

/// Decides how packages are installed on this host.
fn plan(
    finder: &Finder,
    is_root: bool,
    missing: &[&'static Requirement],
) -> Result<Apt, PackagesError> {
    if !finder.has_program("apt-get") {
        return Err(PackagesError::NoApt {
            missing: missing.to_vec(),
        });
    }
    match (is_root, finder.has_program("sudo")) {
        (true, _) => Ok(Apt::as_root()),
        (false, true) => Ok(Apt::through_sudo()),
        (false, false) => Err(PackagesError::NoSudo {
            missing: missing.to_vec(),
        }),
    }
}

/// Tells whether this process belongs to root.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn listed(missing: &[&'static Requirement], name: fn(&Requirement) -> &'static str) -> String {
    let items: Vec<_> = missing
        .iter()
        .map(|requirement| format!("{} ({})", name(requirement), requirement.reason))
        .collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::finder::FakeHost;
    use super::*;

    const ROOT: User = User {
        is_root: true,
        purpose: Purpose::Use,
    };

    const ORDINARY: User = User {
        is_root: false,
        purpose: Purpose::Use,
    };

    fn packages(missing: &[&Requirement]) -> Vec<&'static str> {
        missing
            .iter()
            .map(|requirement| requirement.package)
            .collect()
    }

    #[test]
    fn bare_host_misses_every_package_that_root_needs_and_more_for_tests() {
        let host = FakeHost::new("bare", &[]);
        let missing = missing(&host.finder(), ROOT);
        assert_eq!(
            packages(&missing),
            [
                "qemu-system-x86",
                "mmdebstrap",
                "squashfs-tools",
                "e2fsprogs",
                "openssh-client",
            ]
        );
        let for_tests = super::missing(
            &host.finder(),
            User {
                purpose: Purpose::TestOnKvm,
                ..ROOT
            },
        );
        assert_eq!(
            packages(&for_tests)[missing.len()..],
            [
                "iproute2",
                "curl",
                "git",
                "chromium",
                "ffmpeg",
                "busybox-static",
                "linux-image-amd64"
            ]
        );
    }

    #[test]
    fn ordinary_users_also_need_the_user_mapping() {
        let host = FakeHost::new(
            "user",
            &[
                "usr/bin/qemu-system-x86_64",
                "usr/bin/mmdebstrap",
                "usr/bin/sqfstar",
                "usr/sbin/mke2fs",
                "usr/bin/ssh-keygen",
            ],
        );
        assert_eq!(packages(&missing(&host.finder(), ORDINARY)), ["uidmap"]);
        assert_eq!(packages(&missing(&host.finder(), ROOT)), [""; 0]);
    }

    #[test]
    fn host_without_apt_is_told_the_programs_and_why() {
        let host = FakeHost::new(
            "no-apt",
            &[
                "usr/bin/mmdebstrap",
                "usr/bin/sqfstar",
                "usr/sbin/mke2fs",
                "usr/bin/ssh-keygen",
            ],
        );
        let missing = missing(&host.finder(), ROOT);
        let error = plan(&host.finder(), true, &missing).expect_err("there is no apt-get");
        assert_eq!(
            error.to_string(),
            "this host has no apt-get; install these programs with its own package manager, then \
             run this again: qemu-system-x86_64 (runs microVMs on hosts without usable KVM)"
        );
    }

    #[test]
    fn ordinary_user_without_sudo_is_told_the_command() {
        let host = FakeHost::new(
            "no-sudo",
            &[
                "usr/bin/apt-get",
                "usr/bin/sqfstar",
                "usr/sbin/mke2fs",
                "usr/bin/ssh-keygen",
            ],
        );
        let missing = missing(&host.finder(), ORDINARY);
        let error = plan(&host.finder(), false, &missing).expect_err("there is no sudo");
        assert_eq!(
            error.to_string(),
            "installing packages takes root, and this host has no sudo; as root, run: apt-get \
             install --no-install-recommends qemu-system-x86 mmdebstrap uidmap"
        );
    }

    #[test]
    fn ordinary_user_installs_through_sudo_and_root_does_not() {
        let host = FakeHost::new("sudo", &["usr/bin/apt-get", "usr/bin/sudo"]);
        assert_eq!(plan(&host.finder(), false, &[]), Ok(Apt::through_sudo()));
        assert_eq!(plan(&host.finder(), true, &[]), Ok(Apt::as_root()));
    }

    #[test]
    fn file_that_cannot_be_executed_is_no_program() {
        let host = FakeHost::new("plain-file", &[]);
        host.add_file("usr/bin/mmdebstrap", 0o644);
        assert!(!host.finder().has_program("mmdebstrap"));
    }

    #[test]
    fn system_directories_are_searched_even_if_path_lacks_them() {
        let host = FakeHost::new("sbin", &["usr/sbin/mke2fs"]);
        let finder = Finder::new(host.root(), [PathBuf::from("/usr/bin")]);
        assert!(finder.has_program("mke2fs"));
    }

    #[test]
    fn path_is_looked_for_with_any_name_in_place_of_the_star() {
        let host = FakeHost::new("path", &[]);
        let path = "/lib/modules/*/kernel/fs/9p";
        assert!(!host.finder().has(path));
        host.add_file("lib/modules/6.1-cloud/kernel/fs/ext4/ext4.ko", 0o644);
        assert!(!host.finder().has(path));
        host.add_file("lib/modules/6.1/kernel/fs/9p/9p.ko", 0o644);
        assert!(host.finder().has(path));
    }
}
