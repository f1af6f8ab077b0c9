//! Root file systems with an SSH server, each with a kernel beside it, in a directory of their own.
//!
//! ```text
//!  DIRECTORY/NAME/vmlinux.bin   a copy of the prepared kernel
//!                 rootfs.ext4   sparse; writable by whoever boots it
//!                 fingerprint   digest of everything the image was asked to be
//!  DIRECTORY/.lock-NAME         flock(2): who builds NAME holds it
//!  DIRECTORY/.new-NAME          being built; takes the name by one rename
//! ```
//!
//! These are for programs that name files to boot from. An image whose fingerprint is that of the
//! request is used as it is; any other is built anew, and appears complete or not at all.
//!
//! `debian` builds from Debian packages, `alpine` from Alpine's; `login` is what both put into
//! them so that somebody gets in.

mod alpine;
mod debian;
mod key;
mod login;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

pub use alpine::{AlpineError, AlpineSource, AlpineSsh};
pub use debian::DebianSsh;
pub use key::{KeyPair, KeyPairError, PublicKey, PublicKeyError, ensure_key_pair};
pub use login::{Login, PasswordError};

use crate::cache::{Cache, CacheError};
use crate::command::CommandError;
use crate::digest::Digest;
use crate::kernel::{KernelError, foreign_kernel, kernel};
use crate::progress::{Progress, step};
use crate::root_image::RootImageError;
use crate::sparse::{CopyError, copy_sparse};

/// File names of an image.
const KERNEL_FILE: &str = "vmlinux.bin";
const ROOT_FILE: &str = "rootfs.ext4";
const FINGERPRINT_FILE: &str = "fingerprint";

/// Version of how images are made, besides what each is made of; part of the fingerprint.
const FORMAT: u32 = 1;

/// Least and greatest size of a root file system, in MiB.
const MIN_SIZE_MIB: u32 = 64;
const MAX_SIZE_MIB: u32 = 1 << 20;

/// An image that can be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshImage {
    /// The kernel.
    pub kernel: PathBuf,
    /// The root file system.
    pub root: PathBuf,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum SshImageError {
    /// The name cannot be that of a directory of ours.
    #[error(
        "an image name has letters, digits, `.`, `_` and `-`, at most 64, and begins with a letter or digit; this is {found:?}"
    )]
    Name {
        /// The name, cut to a printable length.
        found: String,
    },
    /// The size is not possible.
    #[error(
        "a root file system of {size_mib} MiB is not possible ({MIN_SIZE_MIB} to {MAX_SIZE_MIB} MiB)"
    )]
    Size {
        /// The size asked for.
        size_mib: u32,
    },
    /// This cannot be the name of a package.
    #[error("{found:?} is not the name of a package")]
    Package {
        /// The name, cut to a printable length.
        found: String,
    },
    /// The password cannot be one.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A file or directory cannot be used.
    #[error("cannot {action} {}", path.display())]
    Files {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel could not be copied.
    #[error("cannot copy the kernel")]
    Copy(#[from] CopyError),
    /// The cache failed.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// A host program failed.
    #[error("a host program failed")]
    Command(#[from] CommandError),
    /// The kernel could not be prepared.
    #[error("prepare the guest kernel")]
    Kernel(#[from] KernelError),
    /// The tree could not be made from Debian packages.
    #[error("build the root file system from Debian packages")]
    Debian(#[from] RootImageError),
    /// The tree could not be made from Alpine's files.
    #[error("build the root file system from Alpine's files")]
    Alpine(#[from] AlpineError),
}

/// The directory of images, and what building them needs.
pub struct SshImages<'a> {
    /// Where kernels are prepared.
    pub cache: &'a Cache,
    /// Where the images are. Made with mode 0700 when missing.
    pub directory: &'a Path,
    /// Who hears what is done.
    pub progress: &'a dyn Progress,
}

impl SshImages<'_> {
    /// Returns the image `name` with the fingerprint of `inputs`, built by `build` where there is
    /// none: it gets the file to make and a directory to work in.
    fn obtain(
        &self,
        name: &str,
        size_mib: u32,
        inputs: &str,
        build: impl FnOnce(&Path, &Path) -> Result<(), SshImageError>,
    ) -> Result<SshImage, SshImageError> {
        check_name(name)?;
        if !(MIN_SIZE_MIB..=MAX_SIZE_MIB).contains(&size_mib) {
            return Err(SshImageError::Size { size_mib });
        }
        make_directory(self.directory)?;
        let _lock = self.lock(name)?;
        let fingerprint = format!("{FORMAT} {size_mib} {inputs}");
        let fingerprint = Digest::of_bytes(fingerprint.as_bytes()).to_string();
        let home = self.directory.join(name);
        let image = SshImage {
            kernel: home.join(KERNEL_FILE),
            root: home.join(ROOT_FILE),
        };
        let found = fs::read_to_string(home.join(FINGERPRINT_FILE)).unwrap_or_default();
        if found == fingerprint && image.root.is_file() {
            self.refresh_kernel(&image.kernel)?;
            return Ok(image);
        }
        let staging = self.directory.join(format!(".new-{name}"));
        let outcome = self.build_in(&staging, &fingerprint, build);
        let outcome = outcome.and_then(|output| publish(&output, &home));
        // What a rebuild replaced is here now, too.
        let _gone = fs::remove_dir_all(&staging);
        outcome.map(|()| image)
    }

    fn build_in(
        &self,
        staging: &Path,
        fingerprint: &str,
        build: impl FnOnce(&Path, &Path) -> Result<(), SshImageError>,
    ) -> Result<PathBuf, SshImageError> {
        // Left by a builder that died: the lock is ours.
        let _gone = fs::remove_dir_all(staging);
        let (output, work) = (staging.join("output"), staging.join("work"));
        make_directory(&output)?;
        make_directory(&work)?;
        self.refresh_kernel(&output.join(KERNEL_FILE))?;
        build(&output.join(ROOT_FILE), &work)?;
        let path = output.join(FINGERPRINT_FILE);
        fs::write(&path, fingerprint).map_err(files_error("write", &path))?;
        Ok(output)
    }

    /// Copies the prepared kernel to `path`, unless a copy of one is there already.
    fn refresh_kernel(&self, path: &Path) -> Result<(), SshImageError> {
        if path.is_file() {
            let found = foreign_kernel(self.cache, path, self.progress)?;
            if !found.release.is_empty() {
                return Ok(());
            }
        }
        let prepared = kernel(self.cache, self.progress)?;
        let copy = path.with_extension("new");
        let _absent = fs::remove_file(&copy);
        copy_sparse(&prepared.image, &copy)?;
        fs::rename(&copy, path).map_err(files_error("place", path))
    }

    fn lock(&self, name: &str) -> Result<File, SshImageError> {
        let path = self.directory.join(format!(".lock-{name}"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(files_error("open", &path))?;
        if file.try_lock().is_err() {
            let what = format!("waiting for another process to build {name}");
            step(self.progress, &what, None, || file.lock()).map_err(files_error("lock", &path))?;
        }
        Ok(file)
    }
}

/// Puts the directory `output` in the place of `home` at once; what was there takes its place.
fn publish(output: &Path, home: &Path) -> Result<(), SshImageError> {
    let swap = |flags| renameat_with(CWD, output, CWD, home, flags);
    match swap(RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => swap(RenameFlags::EXCHANGE),
        outcome => outcome,
    }
    .map_err(|errno| files_error("place", home)(errno.into()))
}

fn check_name(name: &str) -> Result<(), SshImageError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins_well && name.len() <= 64 && name.chars().all(is_plain) {
        Ok(())
    } else {
        Err(SshImageError::Name {
            found: name.chars().take(80).collect(),
        })
    }
}

/// Checks that `name` can be a package: it becomes part of a program's argument.
fn check_package(name: &str) -> Result<(), SshImageError> {
    let is_plain = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | '_')
    };
    let begins_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if begins_well && name.len() <= 128 && name.chars().all(is_plain) {
        Ok(())
    } else {
        Err(SshImageError::Package {
            found: name.chars().take(80).collect(),
        })
    }
}

fn make_directory(path: &Path) -> Result<(), SshImageError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(files_error("create", path))
}

fn files_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SshImageError {
    let path = path.to_owned();
    move |source| SshImageError::Files {
        action,
        path,
        source,
    }
}
