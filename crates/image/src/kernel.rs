//! The kernel guests boot: Debian's cloud kernel, taken from its package, never installed.
//!
//! ```text
//!  apt-cache ─ which package ─> apt-get download ─> dpkg-deb ─ tar ─> `package`
//!     vmlinuz ─────── unwrap the bzImage payload ───────────────────> `boot_image`  vmlinux (ELF)
//!     *.ko, modules.builtin ─ read .modinfo, sort by dependency ────> `modules`     *.ko, lists
//! ```
//!
//! The kernel is unwrapped on the host because a guest that starts at the ELF entry (PVH) skips
//! its own decompression, which is half a second under emulation. An artefact keeps only the
//! modules that guests load, decompressed.

mod boot_image;
mod modules;
mod package;

use std::fs;
use std::path::{Path, PathBuf};

pub use boot_image::{BootImageError, ElfKernelError};
pub use modules::ModuleError;

use crate::cache::{Artefact, ArtefactKind, Cache, CacheError, Inputs, Key, Staging, io_error};
use crate::command::CommandError;
use crate::digest::Digest;
use crate::progress::{Progress, step};
use modules::{BOOT_MODULES, LATE_MODULES, NETWORK_MODULES, SOCKET_MODULES};
pub(crate) use package::{APT_GET, DPKG_DEB};
use package::{Candidate, Unpacked};

/// File names inside the artefact.
const IMAGE_FILE: &str = "vmlinux";
pub(crate) const BOOT_LIST_FILE: &str = "boot.list";
pub(crate) const LATE_LIST_FILE: &str = "late.list";
pub(crate) const NETWORK_LIST_FILE: &str = "network.list";
pub(crate) const SOCKET_LIST_FILE: &str = "sockets.list";

/// Version of how an artefact is laid out and made; part of the key.
const FORMAT: u32 = 1;

/// Names of the artefact's inputs.
const RELEASE: &str = "release";
const PACKAGE: &str = "package";

/// Free space that preparing a kernel needs: package 27 MB, unpacked modules 60 MB (105 MB
/// installed), image 53 MB for 6.1; doubled, as kernels grow.
const NEEDED_BYTES: u64 = 400 << 20;

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
}

/// Returns the kernel that is prepared already, or fetches and prepares the current one.
///
/// A prepared kernel is used until [`update_kernel`] is called.
///
/// # Errors
///
/// When no kernel is prepared and one cannot be fetched, unpacked or stored.
pub fn kernel(cache: &Cache, progress: &dyn Progress) -> Result<Kernel, KernelError> {
    let artefact = cache.obtain(
        &key(),
        progress,
        |_| true,
        |staging| {
            cache.require_space(NEEDED_BYTES)?;
            let candidate = step(progress, "choosing the kernel package", None, || {
                package::candidate(&staging.work())
            })?;
            prepare_candidate(staging, &candidate, progress)
        },
    )?;
    Kernel::from_artefact(&artefact)
}

/// Returns the kernel that is prepared already, if any. Takes milliseconds.
///
/// # Errors
///
/// When the cache cannot be read.
pub fn prepared_kernel(
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Option<Kernel>, KernelError> {
    let found = cache.find(&key(), progress, |_| true)?;
    found
        .map(|artefact| Kernel::from_artefact(&artefact))
        .transpose()
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
    if cache.find(&key(), progress, has_its_size)?.is_some() {
        let found = Digest::of_file(image).map_err(read_error)?;
        let is_it = |artefact: &Artefact| {
            let recorded = artefact.file(IMAGE_FILE);
            recorded.is_some_and(|(recorded, _)| recorded == found)
        };
        if let Some(artefact) = cache.find(&key(), progress, is_it)? {
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

/// Prepares the kernel that the host's package lists offer now, unless it is prepared already.
///
/// Older kernels stay in the cache; [`kernel`] returns the newest.
///
/// # Errors
///
/// As [`kernel`].
pub fn update_kernel(cache: &Cache, progress: &dyn Progress) -> Result<Kernel, KernelError> {
    let candidate = step(progress, "choosing the kernel package", None, || {
        package::candidate(cache.root())
    })?;
    let wanted = candidate.to_string();
    let is_wanted = |artefact: &Artefact| artefact.input(PACKAGE) == wanted;
    let artefact = cache.obtain(&key(), progress, is_wanted, |staging| {
        cache.require_space(NEEDED_BYTES)?;
        prepare_candidate(staging, &candidate, progress)
    })?;
    Kernel::from_artefact(&artefact)
}

/// Prepares the kernel of the Debian kernel package in the file `deb`, for hosts without apt or
/// without a network. It becomes the one that [`kernel`] returns.
///
/// # Errors
///
/// When the file is not a kernel package, or the result cannot be stored.
pub fn kernel_from_package(
    cache: &Cache,
    deb: &Path,
    progress: &dyn Progress,
) -> Result<Kernel, KernelError> {
    let artefact = cache.build(&key(), progress, |staging| {
        cache.require_space(NEEDED_BYTES)?;
        let deb = deb
            .canonicalize()
            .map_err(|source| io_error("find", deb, source))?;
        let name = deb
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        prepare_package(staging, &deb, name, progress)
    })?;
    Kernel::from_artefact(&artefact)
}

fn prepare_candidate(
    staging: &Staging,
    candidate: &Candidate,
    progress: &dyn Progress,
) -> Result<Inputs, KernelError> {
    let download = format!("downloading {}", candidate.package);
    let deb = step(progress, &download, candidate.size_bytes, || {
        package::download(candidate, &staging.work(), progress)
    })?;
    prepare_package(staging, &deb, candidate.to_string(), progress)
}

/// Turns the package `deb` into the files of an artefact.
fn prepare_package(
    staging: &Staging,
    deb: &Path,
    package: String,
    progress: &dyn Progress,
) -> Result<Inputs, KernelError> {
    let unpacked = step(progress, "unpacking the kernel package", None, || {
        package::unpack(deb, &staging.work())
    })?;
    step(progress, "extracting the kernel", None, || {
        write_image(&unpacked, &staging.output())
    })?;
    step(progress, "choosing kernel modules", None, || {
        write_modules(&unpacked, &staging.output())
    })?;
    let inputs = [(RELEASE, unpacked.release), (PACKAGE, package)];
    Ok(inputs.map(|(name, value)| (name.to_owned(), value)).into())
}

fn write_image(unpacked: &Unpacked, output: &Path) -> Result<(), KernelError> {
    let error = |source| KernelError::BootImage {
        release: unpacked.release.clone(),
        source,
    };
    let path = &unpacked.boot_image;
    let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
    let image = boot_image::unwrap(&bytes).map_err(error)?;
    let path = output.join(IMAGE_FILE);
    fs::write(&path, image).map_err(|source| io_error("write", &path, source))?;
    Ok(())
}

fn write_modules(unpacked: &Unpacked, output: &Path) -> Result<(), KernelError> {
    let error = |source| KernelError::Modules {
        release: unpacked.release.clone(),
        source,
    };
    let resolve = |wanted, loaded| unpacked.modules.resolve(wanted, loaded).map_err(error);
    let boot = resolve(BOOT_MODULES, &[])?;
    // A guest may load these in any order.
    let late = resolve(LATE_MODULES, &boot)?;
    let network = resolve(NETWORK_MODULES, &boot)?;
    let sockets = resolve(SOCKET_MODULES, &boot)?;
    for (list, modules) in [
        (BOOT_LIST_FILE, &boot),
        (LATE_LIST_FILE, &late),
        (NETWORK_LIST_FILE, &network),
        (SOCKET_LIST_FILE, &sockets),
    ] {
        let mut text = String::new();
        for module in modules {
            text.push_str(&module.file_name());
            text.push('\n');
            let path = output.join(module.file_name());
            fs::write(&path, &module.bytes).map_err(|source| io_error("write", &path, source))?;
        }
        let path = output.join(list);
        fs::write(&path, text).map_err(|source| io_error("write", &path, source))?;
    }
    Ok(())
}

/// The key says how kernels are made, not which: the newest one made this way is used.
fn key() -> Key {
    let recipe = format!(
        "{FORMAT} {BOOT_MODULES:?} {LATE_MODULES:?} {NETWORK_MODULES:?} {SOCKET_MODULES:?}"
    );
    let digest = Digest::of_bytes(recipe.as_bytes()).short();
    Key::new(ArtefactKind::Kernel, format!("debian-cloud-{digest}"))
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

/// Reads a module list; names that the artefact does not have are left out, as no file of the
/// list may be followed out of the artefact.
fn listed_modules(artefact: &Artefact, list: &str) -> Result<Vec<PathBuf>, KernelError> {
    let path = artefact.path(list);
    let text = fs::read_to_string(&path).map_err(|source| io_error("read", &path, source))?;
    let listed = text.lines().filter(|name| artefact.has(name));
    Ok(listed.map(|name| artefact.path(name)).collect())
}

#[cfg(test)]
mod tests;
