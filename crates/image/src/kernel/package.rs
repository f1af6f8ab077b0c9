//! Debian packages of kernels: which one, fetched how, and what is taken out of it.
//!
//! apt decides everything that matters: which mirror, which version, and whether the signature
//! is good. No registry is named here.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::io_error;
use crate::command::{CommandError, Invocation, Program, hear_out};
use crate::digest::Digest;
use crate::kernel::KernelError;
use crate::kernel::modules::ModuleSet;
use crate::progress::Progress;

/// The package that depends on the newest cloud kernel of the host's release.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// How the package with the kernel itself begins.
const IMAGE_PACKAGE_PREFIX: &str = "linux-image-";

const APT_CACHE: Program = Program {
    name: "apt-cache",
    package: "apt",
};
pub(crate) const APT_GET: Program = Program {
    name: "apt-get",
    package: "apt",
};
pub(crate) const DPKG_DEB: Program = Program {
    name: "dpkg-deb",
    package: "dpkg",
};

/// How often the size of a growing download is looked at.
const DOWNLOAD_TICK: Duration = Duration::from_millis(200);

/// Largest file taken out of a package. The largest today is an 8 MB boot image.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Most bytes taken out of a package in all. Cloud kernel modules are some 60 MB.
const MAX_TOTAL_BYTES: u64 = 2 << 30;

/// A package that apt offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) package: String,
    pub(super) version: String,
    pub(super) size_bytes: Option<u64>,
    pub(super) sha256: Option<Digest>,
}

/// What a kernel package holds.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) release: String,
    pub(super) boot_image: PathBuf,
    pub(super) modules: ModuleSet,
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.package, self.version)
    }
}

/// Asks apt for the kernel package that the meta package depends on.
pub(super) fn candidate(directory: &Path) -> Result<Candidate, KernelError> {
    let depends = apt_cache(
        directory,
        &["depends", "--important", META_PACKAGE],
        META_PACKAGE,
    )?;
    let package = first_image_dependency(&depends).ok_or(KernelError::PackageData {
        package: META_PACKAGE.to_owned(),
        field: "kernel dependency",
    })?;
    described(directory, package)
}

/// Asks apt for the version of `package` that it would install.
pub(super) fn described(directory: &Path, package: String) -> Result<Candidate, KernelError> {
    let show = apt_cache(
        directory,
        &["show", "--no-all-versions", &package],
        &package,
    )?;
    let value = |field: &str| control_field(&show, field);
    let version = value("Version").ok_or_else(|| KernelError::PackageData {
        package: package.clone(),
        field: "version",
    })?;
    let size_bytes = value("Size").and_then(|size| size.parse().ok());
    let sha256 = value("SHA256").and_then(|digest| digest.parse().ok());
    Ok(Candidate {
        version: version.to_owned(),
        size_bytes,
        sha256,
        package,
    })
}

fn apt_cache(directory: &Path, args: &[&str], package: &str) -> Result<String, KernelError> {
    match Invocation::new(APT_CACHE, directory)?.args(args).output() {
        Ok(output) => Ok(String::from_utf8_lossy(&output).into_owned()),
        // apt-cache(8) exits with 100 for a name it does not know.
        Err(CommandError::Failed { status, .. }) if status.code() == Some(100) => {
            Err(KernelError::UnknownPackage {
                package: package.to_owned(),
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// Finds `Depends: linux-image-6.1.0-…` in the output of `apt-cache depends`.
fn first_image_dependency(depends: &str) -> Option<String> {
    let dependencies = depends.lines().filter_map(|line| {
        line.trim()
            .trim_start_matches('|')
            .strip_prefix("Depends: ")
            .map(str::trim)
    });
    let is_image = |name: &&str| {
        let rest = name.strip_prefix(IMAGE_PACKAGE_PREFIX);
        rest.is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
    };
    dependencies.into_iter().find(is_image).map(str::to_owned)
}

/// Returns a one-line field of a Debian control paragraph (Debian Policy §5.1).
fn control_field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':').map(str::trim);
    paragraph.lines().find_map(value)
}

/// Fetches the package into `directory` and returns its file.
pub(super) fn download(
    candidate: &Candidate,
    directory: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, KernelError> {
    // As root, apt would give up its rights to a user who cannot write to our private directory.
    let sandbox = ["-o", "APT::Sandbox::User=root"];
    let wanted = format!("{}={}", candidate.package, candidate.version);
    Invocation::guarded(APT_GET, directory)?
        .args(sandbox)
        .args(["-q", "-y", "download", &wanted])
        .run(&|_| {}, |running| {
            while !running.exits_within(DOWNLOAD_TICK) {
                if let Some((_, size)) = downloaded_file(directory) {
                    progress.advanced(size);
                }
            }
            Ok::<(), CommandError>(())
        })?;
    let package = || candidate.package.clone();
    let (path, size) = downloaded_file(directory).ok_or_else(|| KernelError::PackageData {
        package: package(),
        field: "file",
    })?;
    progress.advanced(size);
    let found = Digest::of_file(&path).map_err(|source| io_error("read", &path, source))?;
    if candidate.sha256.is_some_and(|expected| expected != found) {
        return Err(KernelError::PackageDigest { path });
    }
    Ok(path)
}

/// Returns the only package file in `directory`, and its size.
fn downloaded_file(directory: &Path) -> Option<(PathBuf, u64)> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let mut packages = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "deb"));
    let entry = packages.next()?;
    Some((entry.path(), entry.metadata().ok()?.len()))
}

/// Takes the boot image and the modules out of the package `deb`, into `directory`.
pub(super) fn unpack(deb: &Path, directory: &Path) -> Result<Unpacked, KernelError> {
    let content_error = |source| KernelError::PackageContent {
        path: deb.to_owned(),
        source,
    };
    let mut found = Invocation::new(DPKG_DEB, directory)?
        .args(["--fsys-tarfile".as_ref(), deb.as_os_str()])
        .read_stdout()
        .run(&|_| {}, |running| {
            let stdout = running.stdout.take().expect("stdout was asked for");
            take_files(stdout, directory).map_err(|error| match error {
                TakeError::Archive(source) => content_error(source),
                TakeError::Write(path, source) => io_error("write", &path, source).into(),
            })
        })?;
    let (release, boot_image) = found.kernel.take().ok_or_else(|| KernelError::NoKernel {
        path: deb.to_owned(),
    })?;
    let modules = ModuleSet::new(found.modules, found.built_in);
    Ok(Unpacked {
        release,
        boot_image,
        modules,
    })
}

#[derive(Default)]
struct Found {
    kernel: Option<(String, PathBuf)>,
    modules: BTreeSet<PathBuf>,
    built_in: String,
}

enum TakeError {
    Archive(io::Error),
    Write(PathBuf, io::Error),
}

/// Writes the interesting files of the archive flat into `directory`, by their last name.
///
/// Module names are unique in a kernel, wherever they lie in its tree.
fn take_files(archive: impl Read, directory: &Path) -> Result<Found, TakeError> {
    let mut found = Found::default();
    let mut total_bytes = 0u64;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(TakeError::Archive)? {
        let mut entry = entry.map_err(TakeError::Archive)?;
        let path = entry.path().map_err(TakeError::Archive)?.into_owned();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        total_bytes = total_bytes.saturating_add(entry.size());
        if entry.size() > MAX_FILE_BYTES || total_bytes > MAX_TOTAL_BYTES {
            let message = format!("{} is larger than any kernel file", path.display());
            return Err(TakeError::Archive(io::Error::new(
                io::ErrorKind::InvalidData,
                message,
            )));
        }
        let is_module = name.contains(".ko");
        if name == "modules.builtin" {
            entry
                .read_to_string(&mut found.built_in)
                .map_err(TakeError::Archive)?;
        } else if is_module || name.starts_with("vmlinuz-") {
            let target = directory.join(name);
            let write_error = |source| TakeError::Write(target.clone(), source);
            let mut file = File::create(&target).map_err(write_error)?;
            io::copy(&mut entry, &mut file).map_err(write_error)?;
            if is_module {
                found.modules.insert(target);
            } else {
                found.kernel = Some((name["vmlinuz-".len()..].to_owned(), target));
            }
        }
    }
    hear_out(archive.into_inner()).map_err(TakeError::Archive)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_dependency_is_found_among_others() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-base\n \
                       |Depends: linux-image-6.1.0-56-cloud-amd64\n  Depends: <linux-image>\n";
        let found = first_image_dependency(depends);
        assert_eq!(found.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(first_image_dependency("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn a_package_is_heard_out() {
        let mut tar = tar::Builder::new(Vec::new()).into_inner().unwrap();
        tar.resize(10_240, 0);
        let mut rest = tar.as_slice();
        let directory = tempfile::tempdir().unwrap();
        assert!(take_files(&mut rest, directory.path()).is_ok());
        assert!(rest.is_empty(), "{} bytes were not read", rest.len());
    }

    #[test]
    fn a_control_field_is_matched_by_its_whole_name() {
        let paragraph = "Installed-Size: 5\nSize: 26713492\nVersion: 6.1.192-2\n";
        assert_eq!(control_field(paragraph, "Size"), Some("26713492"));
        assert_eq!(control_field(paragraph, "SHA256"), None);
    }
}
