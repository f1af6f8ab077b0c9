//! Root file systems with an SSH server from Alpine's release and packages.
//!
//! ```text
//!  minirootfs, by its SHA-256 ─┬─ keys ─> index, by its signature ─> packages, by the index
//!                              └─────────────── tree <──────────────────────┘
//! ```
//!
//! Scripts of packages are not run: they would be programs of the guest on the host. What sshd
//! needs of them, its user, is done by hand.

mod fetch;
mod index;
mod package;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::login::LoginFiles;
use super::{Login, SshImage, SshImageError, SshImages};
use crate::cache::CacheError;
use crate::command::CommandError;
use crate::digest::Digest;
use crate::ext4::write_ext4;
use crate::progress::step;
use crate::root_image::RewriteError;
use index::Record;
use tree::Minirootfs;

/// The release that is built from.
const BRANCH: &str = "v3.23";
const VERSION: &str = "3.23.2";
const ARCHITECTURE: &str = "x86_64";

/// SHA-256 of the release's minirootfs for x86-64. Not from Alpine itself: two public projects
/// that pin the file agree on it, Acrym48/custom-proot-distro-repo (`distros/alpine.sh`) and the
/// log of AntoineMartin's WSL manager, which names the file it stored after its digest.
const MINIROOTFS_SHA256: &str = "b50bf42e519420ca2be48dd0efa22aa087c708d0602b67d413406533bef9dab5";

/// Alpine's own servers.
const DEFAULT_MIRROR: &str = "https://dl-cdn.alpinelinux.org/alpine";

/// Packages besides those of the release.
const PACKAGES: &[&str] = &["openssh", "iproute2", "curl", "bash"];

/// Free space that building needs: 100 MB unpacked, twice for a moment.
const NEEDED_BYTES: u64 = 512 << 20;

/// Where Alpine's files come from; by default from Alpine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlpineSource {
    /// A copy of Alpine's server: the URL or directory that has `v3.23` in it.
    pub mirror: Option<String>,
    /// The minirootfs: a URL or a file.
    pub minirootfs: Option<String>,
    /// SHA-256 of the minirootfs, where it is not that of the pinned release.
    pub minirootfs_sha256: Option<Digest>,
}

/// A root file system to build from Alpine's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlpineSsh {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_mib: u32,
    /// Who gets in.
    pub login: Login,
    /// Where the files come from.
    pub source: AlpineSource,
}

/// Why no tree could be made from Alpine's files.
#[derive(Debug, thiserror::Error)]
pub enum AlpineError {
    /// A digest of one's own makes sense only for a file of one's own.
    #[error("a digest of the minirootfs was given without a mirror or a minirootfs it belongs to")]
    DigestAlone,
    /// The location has a scheme that is not understood.
    #[error("cannot fetch {location}: only http://, https://, file:// and paths are understood")]
    Scheme {
        /// The location.
        location: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The minirootfs is not the one that is expected.
    #[error("the minirootfs {location} has the SHA-256 {found}, not {expected}")]
    MinirootfsDigest {
        /// Where it came from.
        location: String,
        /// The digest it must have.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// No key of the minirootfs has signed the index.
    #[error("the index of packages is not signed by a key that the minirootfs trusts")]
    Signature,
    /// Something is not what it should be.
    #[error("{what}: {reason}")]
    Content {
        /// What was looked at.
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The repository does not have a package.
    #[error("the repository has nothing that provides {name}, needed by {needed_by}")]
    NoPackage {
        /// What is needed.
        name: String,
        /// The package that needs it.
        needed_by: String,
    },
    /// More packages are needed than an image can have.
    #[error("the packages need more than 500 others")]
    TooManyPackages,
    /// The tree cannot be passed on.
    #[error("cannot assemble the file tree of the image")]
    Rewrite(#[from] RewriteError),
    /// The cache failed.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// A host program failed.
    #[error("a host program failed")]
    Command(#[from] CommandError),
}

/// A package with its files.
struct Package<'a> {
    record: &'a Record,
    tar: Vec<u8>,
}

impl AlpineSource {
    fn mirror(&self) -> &str {
        self.mirror.as_deref().unwrap_or(DEFAULT_MIRROR)
    }

    fn expected(&self) -> Result<Digest, AlpineError> {
        match self.minirootfs_sha256 {
            Some(_) if self.mirror.is_none() && self.minirootfs.is_none() => {
                Err(AlpineError::DigestAlone)
            }
            Some(digest) => Ok(digest),
            None => Ok(MINIROOTFS_SHA256.parse().expect("64 hexadecimal digits")),
        }
    }
}

impl SshImages<'_> {
    /// Returns the image that `request` describes, building it when there is none like it.
    ///
    /// # Errors
    ///
    /// When the request is unusable, a file cannot be fetched or is not what it must be, or the
    /// image cannot be built.
    pub fn alpine(&self, request: &AlpineSsh) -> Result<SshImage, SshImageError> {
        request.login.files()?;
        let expected = request.source.expected()?;
        // Not where the files came from: that does not change what they are.
        let inputs = format!(
            "alpine {expected} {BRANCH} {PACKAGES:?} {}",
            request.login.inputs()
        );
        self.obtain(&request.name, request.size_mib, &inputs, |image, work| {
            self.cache.require_space(NEEDED_BYTES)?;
            let login = request.login.files()?;
            self.build_alpine(request, expected, &login, image, work)?;
            Ok(())
        })
    }

    fn build_alpine(
        &self,
        request: &AlpineSsh,
        expected: Digest,
        login: &LoginFiles,
        image: &Path,
        work: &Path,
    ) -> Result<(), AlpineError> {
        let source = &request.source;
        let minirootfs = step(self.progress, "fetching Alpine's minirootfs", None, || {
            let bytes = minirootfs_bytes(source, expected, work)?;
            Minirootfs::read(&bytes)
        })?;
        let available = step(
            self.progress,
            "fetching the index of packages",
            None,
            || {
                let bytes = read(&fetch_package_file(source, "APKINDEX.tar.gz", work)?)?;
                package::signed_index(&bytes, &minirootfs.keys)
            },
        )?;
        let available = index::parse(&available);
        let installed = index::parse(&minirootfs.installed);
        let chosen = index::closure(&available, &installed, PACKAGES)?;
        let packages = step(self.progress, "fetching packages", None, || {
            let fetched = chosen
                .into_iter()
                .map(|record| fetch_package(source, record, work));
            fetched.collect::<Result<Vec<_>, _>>()
        })?;
        step(self.progress, "writing the root file system", None, || {
            write_ext4(image, request.size_mib, work, |output| {
                minirootfs.write_with(&packages, PACKAGES, login, output)
            })
        })
    }
}

fn minirootfs_bytes(
    source: &AlpineSource,
    expected: Digest,
    work: &Path,
) -> Result<Vec<u8>, AlpineError> {
    let location = source.minirootfs.clone().unwrap_or_else(|| {
        let mirror = source.mirror().trim_end_matches('/');
        let file = format!("alpine-minirootfs-{VERSION}-{ARCHITECTURE}.tar.gz");
        format!("{mirror}/{BRANCH}/releases/{ARCHITECTURE}/{file}")
    });
    let bytes = read(&fetch::fetch_file(&location, work)?)?;
    let found = Digest::of_bytes(&bytes);
    if found == expected {
        Ok(bytes)
    } else {
        Err(AlpineError::MinirootfsDigest {
            location,
            expected,
            found,
        })
    }
}

fn fetch_package<'a>(
    source: &AlpineSource,
    record: &'a Record,
    work: &Path,
) -> Result<Package<'a>, AlpineError> {
    let file = format!("{}-{}.apk", record.name, record.version);
    let bytes = read(&fetch_package_file(source, &file, work)?)?;
    let tar = package::package_data(&record.name, &bytes, &record.control_sha1)?;
    Ok(Package { record, tar })
}

fn fetch_package_file(
    source: &AlpineSource,
    file: &str,
    work: &Path,
) -> Result<PathBuf, AlpineError> {
    let path = format!("{BRANCH}/main/{ARCHITECTURE}/{file}");
    fetch::fetch(source.mirror(), &path, work)
}

fn read(path: &Path) -> Result<Vec<u8>, AlpineError> {
    fs::read(path).map_err(|source| AlpineError::Read {
        path: path.to_owned(),
        source,
    })
}
