//! The kernel guests boot: Debian's cloud kernel, taken from its package, never installed; or a
//! kernel of our own configuration, built from Debian's source package.
//!
//! ```text
//!  stock:  apt-get download ─> dpkg-deb ─ tar ─> `package`
//!            vmlinuz ─────── unwrap the bzImage payload ──> `boot_image`  vmlinux (ELF)
//!            *.ko, modules.builtin ─ sort by dependency ──> `modules`     *.ko, lists
//!  tuned:  apt-get download ─> dpkg-deb ─ tar ─ xz ─ tar ─> `source`
//!            guest/kernel.config ─ make allnoconfig ──────> `config`      every line took effect
//!            make vmlinux, strip ─────────────────────────> `tuned`       vmlinux (ELF)
//! ```
//!
//! Which of them a machine boots is in `choice`: the tuned one where it is built, unless the user
//! has chosen otherwise.
//!
//! The stock kernel is unwrapped on the host because a guest that starts at the ELF entry (PVH)
//! skips its own decompression, which is half a second under emulation. An artefact keeps only the
//! modules that guests load, decompressed; the tuned kernel has none.

mod boot_image;
mod choice;
mod config;
mod modules;
mod package;
mod source;
mod stock;
mod toolchain;
mod tuned;

use std::fs;
use std::path::{Path, PathBuf};

pub use boot_image::{BootImageError, ElfKernelError};
pub use choice::{
    KernelChoice, KernelChoiceError, KernelFlavour, PreparedKernel, kernel_choice, kernels,
    use_kernel,
};
pub use modules::ModuleError;
pub(crate) use package::{APT_GET, DPKG_DEB};
pub use stock::{kernel_from_package, update_kernel};
pub use tuned::build_kernel;

use crate::cache::{Artefact, Cache, CacheError, io_error};
use crate::command::CommandError;
use crate::digest::Digest;
use crate::progress::Progress;

/// File names inside the artefact.
const IMAGE_FILE: &str = "vmlinux";
pub(crate) const BOOT_LIST_FILE: &str = "boot.list";
pub(crate) const LATE_LIST_FILE: &str = "late.list";
pub(crate) const NETWORK_LIST_FILE: &str = "network.list";
pub(crate) const SOCKET_LIST_FILE: &str = "sockets.list";

/// Names of the artefact's inputs.
const RELEASE: &str = "release";
const PACKAGE: &str = "package";

/// A kernel ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel: an ELF executable with a PVH entry point.
    pub image: PathBuf,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The package it came from, with its version.
    pub package: String,
    /// Digest of the image and the modules together.
    pub digest: Digest,
    /// Modules the boot waits for, in loading order.
    pub boot_modules: Vec<PathBuf>,
    /// Modules loaded once the agent has answered, in loading order.
    pub late_modules: Vec<PathBuf>,
    /// Modules that only a guest with a network loads, in loading order.
    pub network_modules: Vec<PathBuf>,
    /// Modules loaded when somebody asks whose a socket is, in loading order.
    pub socket_modules: Vec<PathBuf>,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The cache failed.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// A host program failed.
    #[error("a host program failed")]
    Command(#[from] CommandError),
    /// apt knows no such package. Usually it has no package lists yet.
    #[error(
        "apt knows no package {package}; if its package lists are missing, run: apt-get update"
    )]
    UnknownPackage {
        /// The package looked for.
        package: String,
    },
    /// apt described a package in words we do not understand.
    #[error("apt does not say the {field} of the package {package}")]
    PackageData {
        /// The package.
        package: String,
        /// What is missing.
        field: &'static str,
    },
    /// The package that arrived is not the one that was announced.
    #[error("the downloaded package {} does not have the announced digest", path.display())]
    PackageDigest {
        /// The downloaded file.
        path: PathBuf,
    },
    /// The package's content cannot be read.
    #[error("cannot read the content of {}", path.display())]
    PackageContent {
        /// The package.
        path: PathBuf,
        /// What the reader said.
        source: std::io::Error,
    },
    /// The package has no kernel in it.
    #[error("{} contains no kernel", path.display())]
    NoKernel {
        /// The package.
        path: PathBuf,
    },
    /// The boot image has no usable kernel in it.
    #[error("the boot image of {release} is not usable")]
    BootImage {
        /// The kernel's release.
        release: String,
        /// What is wrong with it.
        source: BootImageError,
    },
    /// A module that guests need is missing or damaged.
    #[error("the modules of {release} are not usable")]
    Modules {
        /// The kernel's release.
        release: String,
        /// What is wrong with them.
        source: ModuleError,
    },
    /// What a kernel is built with is not installed.
    #[error("building a kernel needs what is not installed: {}", missing.join(", "))]
    ToolsMissing {
        /// The programs, and the files that programs are compiled with.
        missing: Vec<&'static str>,
        /// The Debian packages that bring them.
        packages: Vec<&'static str>,
    },
    /// A kernel's source knows an option of ours by another name, or not at all.
    #[error("the source of {package} does not take these lines of guest/kernel.config:\n  {}",
        lines.join("\n  "))]
    Config {
        /// The source package, with its version.
        package: String,
        /// The lines.
        lines: Vec<String>,
    },
    /// What was built is no kernel that engines boot.
    #[error("the kernel that was built is not bootable")]
    Built(#[from] ElfKernelError),
    /// The kernel that was chosen cannot be had.
    #[error("choose a kernel")]
    Choice(#[from] KernelChoiceError),
}

/// Returns the kernel that machines boot: the one that was chosen by [`use_kernel`]; else the
/// tuned one, if it is built; else the stock one, which is fetched and prepared where it is not.
///
/// A prepared stock kernel is used until [`update_kernel`] is called.
///
/// # Errors
///
/// When the kernel that was chosen is not there any more, or none is prepared and none can be
/// fetched, unpacked or stored.
pub fn kernel(cache: &Cache, progress: &dyn Progress) -> Result<Kernel, KernelError> {
    match choice::chosen(cache, progress)? {
        Some(kernel) => Ok(kernel),
        None => stock::kernel(cache, progress),
    }
}

/// Returns the kernel that [`kernel`] would return, if it is prepared already. Takes milliseconds.
///
/// # Errors
///
/// When the cache cannot be read, or the kernel that was chosen is not there any more.
pub fn prepared_kernel(
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Option<Kernel>, KernelError> {
    match choice::chosen(cache, progress)? {
        Some(kernel) => Ok(Some(kernel)),
        None => stock::prepared(cache, progress),
    }
}

/// Returns `image`, a kernel that somebody else names, as one to boot: with the modules that were
/// prepared with it where it is a copy of a prepared kernel, else with none.
///
/// # Errors
///
/// When `image` or the cache cannot be read.
pub fn foreign_kernel(
    cache: &Cache,
    image: &Path,
    progress: &dyn Progress,
) -> Result<Kernel, KernelError> {
    let read_error = |source| io_error("read", image, source);
    let size_bytes = fs::metadata(image).map_err(read_error)?.len();
    let has_its_size = |artefact: &Artefact| {
        let recorded = artefact.file(IMAGE_FILE);
        recorded.is_some_and(|(_, recorded_bytes)| recorded_bytes == size_bytes)
    };
    for key in [stock::key(), tuned::key()] {
        if cache.find(&key, progress, has_its_size)?.is_none() {
            continue;
        }
        let found = Digest::of_file(image).map_err(read_error)?;
        let is_it = |artefact: &Artefact| {
            let recorded = artefact.file(IMAGE_FILE);
            recorded.is_some_and(|(recorded, _)| recorded == found)
        };
        if let Some(artefact) = cache.find(&key, progress, is_it)? {
            let kernel = Kernel::from_artefact(&artefact)?;
            return Ok(Kernel {
                image: image.to_owned(),
                ..kernel
            });
        }
    }
    Ok(Kernel {
        image: image.to_owned(),
        release: String::new(),
        package: String::new(),
        // Only the modules matter to what is made for a kernel, and it has none.
        digest: Digest::of_bytes(b"no modules"),
        boot_modules: Vec::new(),
        late_modules: Vec::new(),
        network_modules: Vec::new(),
        socket_modules: Vec::new(),
    })
}

impl Kernel {
    fn from_artefact(artefact: &Artefact) -> Result<Self, KernelError> {
        Ok(Self {
            image: artefact.path(IMAGE_FILE),
            release: artefact.input(RELEASE).to_owned(),
            package: artefact.input(PACKAGE).to_owned(),
            digest: artefact.digest(),
            boot_modules: listed_modules(artefact, BOOT_LIST_FILE)?,
            late_modules: listed_modules(artefact, LATE_LIST_FILE)?,
            network_modules: listed_modules(artefact, NETWORK_LIST_FILE)?,
            socket_modules: listed_modules(artefact, SOCKET_LIST_FILE)?,
        })
    }
}

/// Reads a module list, which a kernel without modules does not have. Names that the artefact does
/// not have are left out, as no file of the list may be followed out of the artefact.
fn listed_modules(artefact: &Artefact, list: &str) -> Result<Vec<PathBuf>, KernelError> {
    if !artefact.has(list) {
        return Ok(Vec::new());
    }
    let path = artefact.path(list);
    let text = fs::read_to_string(&path).map_err(|source| io_error("read", &path, source))?;
    let listed = text.lines().filter(|name| artefact.has(name));
    Ok(listed.map(|name| artefact.path(name)).collect())
}

#[cfg(test)]
mod tests;
