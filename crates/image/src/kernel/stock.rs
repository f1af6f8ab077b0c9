//! The stock kernel: Debian's cloud kernel, taken from its package.

use std::fs;
use std::path::Path;

use crate::cache::{Artefact, ArtefactKind, Cache, Inputs, Key, Staging, io_error};
use crate::digest::Digest;
use crate::kernel::modules::{BOOT_MODULES, LATE_MODULES, NETWORK_MODULES, SOCKET_MODULES};
use crate::kernel::package::{self, Candidate, Unpacked};
use crate::kernel::{
    BOOT_LIST_FILE, IMAGE_FILE, Kernel, KernelError, LATE_LIST_FILE, NETWORK_LIST_FILE, PACKAGE,
    RELEASE, SOCKET_LIST_FILE, boot_image,
};
use crate::progress::{Progress, step};

/// Version of how an artefact is laid out and made; part of the key.
const FORMAT: u32 = 1;

/// Free space that preparing a kernel needs: package 27 MB, unpacked modules 60 MB (105 MB
/// installed), image 53 MB for 6.1; doubled, as kernels grow.
const NEEDED_BYTES: u64 = 400 << 20;

/// Returns the stock kernel that is prepared already, or fetches and prepares the current one.
pub(super) fn kernel(cache: &Cache, progress: &dyn Progress) -> Result<Kernel, KernelError> {
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

/// Returns the stock kernel that is prepared already, if any.
pub(super) fn prepared(
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Option<Kernel>, KernelError> {
    let found = cache.find(&key(), progress, |_| true)?;
    found
        .map(|artefact| Kernel::from_artefact(&artefact))
        .transpose()
}

/// Prepares the kernel that the host's package lists offer now, unless it is prepared already.
///
/// Older kernels stay in the cache; [`kernel`](crate::kernel()) returns the newest, unless another
/// was chosen.
///
/// # Errors
///
/// When it cannot be fetched, unpacked or stored.
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
/// without a network. It becomes the stock kernel.
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
pub(super) fn key() -> Key {
    let recipe = format!(
        "{FORMAT} {BOOT_MODULES:?} {LATE_MODULES:?} {NETWORK_MODULES:?} {SOCKET_MODULES:?}"
    );
    let digest = Digest::of_bytes(recipe.as_bytes()).short();
    Key::new(ArtefactKind::Kernel, format!("debian-cloud-{digest}"))
}
