//! Checks of what sandboxes are made of: our programs, the cache, the data directory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use smolvm_image::{
    Cache, InitramfsError, NoProgress, check_agent, prepared_kernel, prepared_root_images,
};
use smolvm_sandbox::{Installation, Store};

use super::Check;
use crate::failure::Failure;
use crate::text;

/// Free space that preparing the kernel and the default image takes: about 1 GiB at its peak.
const CACHE_BYTES: u64 = 2 << 30;

/// Free space below which a guest that writes finds its host's disk full soon.
const DATA_BYTES: u64 = 1 << 30;

/// Checks the program that probes the host.
pub(super) fn vmm(installation: &Installation) -> Check {
    let path = &installation.vmm;
    match access(path, Access::EXEC_OK) {
        Ok(()) => Check::pass("smolvm-vmm", path.display().to_string()),
        Err(error) => Check::fail(
            "smolvm-vmm",
            format!("{}: {}", path.display(), io::Error::from(error)),
            "it belongs beside smolvm; SMOLVM_VMM names it elsewhere",
        ),
    }
}

/// Checks the program that goes into the guest.
pub(super) fn agent(installation: &Installation) -> Check {
    let path = &installation.agent;
    match check_agent(path) {
        Ok(()) => Check::pass("smolvm-agent", format!("{}, static", path.display())),
        Err(error @ InitramfsError::Agent { .. }) => Check::fail(
            "smolvm-agent",
            text::chain(&error),
            "it belongs beside smolvm; SMOLVM_AGENT names it elsewhere",
        ),
        Err(error) => Check::fail(
            "smolvm-agent",
            text::chain(&error),
            "build it as it must be: cargo xtask build",
        ),
    }
}

/// Checks the cache, and what is prepared in it.
pub(super) fn cache(installation: &Installation) -> Vec<Check> {
    let directory = &installation.cache_dir;
    if !directory.exists() {
        let mut checks: Vec<Check> = not_writable("cache", directory).into_iter().collect();
        if checks.is_empty() {
            checks.push(Check::pass(
                "cache",
                format!("{}, not made yet", directory.display()),
            ));
        }
        checks.extend(little_space("cache-space", directory, CACHE_BYTES));
        checks.push(not_prepared("kernel"));
        checks.push(not_prepared("image"));
        return checks;
    }
    let cache = match Cache::open(directory) {
        Ok(cache) => cache,
        Err(error) => {
            let fix = format!(
                "chmod go-w {}, or set SMOLVM_CACHE_DIR",
                directory.display()
            );
            return vec![Check::fail("cache", text::chain(&error), fix)];
        }
    };
    let mut checks = vec![Check::pass("cache", directory.display().to_string())];
    let (kernel, images) = (kernel(&cache), images(&cache));
    let is_prepared = [&kernel, &images].iter().all(|check| check.fix.is_none());
    if !is_prepared {
        checks.extend(little_space("cache-space", directory, CACHE_BYTES));
    }
    checks.extend([kernel, images]);
    checks
}

fn kernel(cache: &Cache) -> Check {
    match prepared_kernel(cache, &NoProgress) {
        Ok(Some(kernel)) => {
            let size = kernel.image.metadata().map_or(0, |file| file.len());
            let detail = format!(
                "{}, {}, {}",
                kernel.release,
                kernel.package,
                text::size(size)
            );
            Check::pass("kernel", detail)
        }
        Ok(None) => not_prepared("kernel"),
        Err(error) => {
            let reason = text::chain(&error);
            let hints = Failure::from(error).hints;
            let hint = hints.into_iter().next();
            let hint = hint.unwrap_or_else(|| "prepare it: smolvm setup".to_owned());
            Check::fail("kernel", reason, hint)
        }
    }
}

fn images(cache: &Cache) -> Check {
    let images = match prepared_root_images(cache, &NoProgress) {
        Ok(images) => images,
        Err(error) => {
            return Check::fail("image", text::chain(&error), "prepare it: smolvm setup");
        }
    };
    let prepared: Vec<String> = images
        .into_iter()
        .filter_map(|(name, image)| Some((name, image?)))
        .map(|(name, image)| {
            format!(
                "{name}, Debian {}, {}",
                image.suite,
                text::size(image.size_bytes)
            )
        })
        .collect();
    if prepared.is_empty() {
        not_prepared("image")
    } else {
        Check::pass("image", prepared.join("; "))
    }
}

fn not_prepared(name: &'static str) -> Check {
    Check::warn(
        name,
        "not prepared yet; the first run will do it, which takes minutes",
        "prepare it now: smolvm setup",
    )
}

/// Checks the host's programs that kernels and images are prepared with.
pub(super) fn host_programs(installation: &Installation) -> Check {
    let programs = smolvm_image::host_programs();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| program.path.is_none())
        .collect();
    if missing.is_empty() {
        let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
        return Check::pass("host-programs", names.join(", "));
    }
    let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let fix = format!("sudo apt-get install {}", packages.join(" "));
    let detail = format!("not installed: {}", names.join(", "));
    let is_prepared = Cache::open(&installation.cache_dir).is_ok_and(|cache| {
        let (kernel, images) = (kernel(&cache), images(&cache));
        kernel.fix.is_none() && images.fix.is_none()
    });
    if is_prepared {
        let detail = format!("{detail}; needed only to prepare kernels and images");
        Check::warn("host-programs", detail, fix)
    } else {
        Check::fail("host-programs", detail, fix)
    }
}

/// Checks the directory of the sandboxes.
pub(super) fn data(installation: &Installation) -> Vec<Check> {
    let directory = &installation.data_dir;
    let mut checks: Vec<Check> = not_writable("data", directory).into_iter().collect();
    if checks.is_empty() {
        checks.push(data_directory(directory));
    }
    checks.extend(little_space("data-space", directory, DATA_BYTES));
    checks
}

fn data_directory(directory: &Path) -> Check {
    let sandboxes = directory.join("sandboxes");
    let Ok(metadata) = fs::metadata(&sandboxes) else {
        return Check::pass("data", format!("{}, not made yet", directory.display()));
    };
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Check::fail(
            "data",
            format!(
                "{} is open to others (mode {mode:04o})",
                sandboxes.display()
            ),
            format!("chmod 0700 {}", sandboxes.display()),
        );
    }
    match Store::open(directory).and_then(|store| store.reap().and_then(|_| store.list())) {
        Ok(sandboxes) => Check::pass(
            "data",
            format!("{}, sandboxes: {}", directory.display(), sandboxes.len()),
        ),
        Err(error) => Check::fail(
            "data",
            text::chain(&error),
            "set SMOLVM_DATA_DIR to a directory that may be written to",
        ),
    }
}

/// Returns a failure when the nearest part of `directory` that exists may not be written to.
fn not_writable(name: &'static str, directory: &Path) -> Option<Check> {
    let existing = nearest_existing(directory)?;
    let error = access(&existing, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(Check::fail(
        name,
        format!(
            "{} may not be written to: {}",
            existing.display(),
            io::Error::from(error)
        ),
        "set SMOLVM_HOME to a directory that may be written to",
    ))
}

/// Returns a warning when the file system of `directory` is short of space.
fn little_space(name: &'static str, directory: &Path, needed: u64) -> Option<Check> {
    let stat = statvfs(nearest_existing(directory)?).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= needed {
        return Some(Check::pass(name, format!("{} free", text::size(free))));
    }
    Some(Check::warn(
        name,
        format!(
            "{} free at {}; {} are advisable",
            text::size(free),
            directory.display(),
            text::size(needed)
        ),
        "free some space, or set SMOLVM_HOME to a directory on another disk",
    ))
}

fn nearest_existing(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .find(|path| path.exists())
        .map(Path::to_owned)
}
