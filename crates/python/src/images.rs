//! Images of one's own, and the keys that get into them.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use smolvm_image::{
    AlpineSource, AlpineSsh, Cache, DebianSsh, Digest, Login, NoProgress, PublicKey, SshImage,
    SshImages,
};

use crate::failure::Failure;
use crate::installation::{absolute, installation, variable};
use crate::operation::Operation;

/// Packages of the image with a browser: it, fonts that pages expect, and a screen to draw on.
const BROWSER_PACKAGES: &[&str] = &["chromium", "fonts-liberation", "xvfb"];

/// Packages of the image for OpenClaw: what runs it, and what its tools call.
const OPENCLAW_PACKAGES: &[&str] = &["nodejs", "npm", "git", "curl"];

/// An image as Python asks for it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ImageArguments {
    /// `alpine`, `debian`, `browser` or `openclaw`.
    recipe: String,
    directory: PathBuf,
    name: String,
    size_mib: u64,
    /// The key itself, or the file it is in.
    public_key: Option<PathBuf>,
    password: Option<String>,
    packages: Vec<String>,
    mirror: Option<PathBuf>,
    minirootfs: Option<PathBuf>,
    minirootfs_sha256: Option<String>,
}

enum Recipe {
    Alpine(AlpineSsh),
    Debian(DebianSsh),
}

impl ImageArguments {
    fn recipe(self) -> Result<Recipe, Failure> {
        let size_mib = u32::try_from(self.size_mib)
            .map_err(|_| Failure::argument("rootfs_size_mb", "it is too large"))?;
        let key = self.public_key.as_deref().map(public_key).transpose()?;
        let login = Login {
            key,
            password: self.password.clone(),
        };
        let own = match self.recipe.as_str() {
            "alpine" => {
                return Ok(Recipe::Alpine(AlpineSsh {
                    source: self.source()?,
                    name: self.name,
                    size_mib,
                    login,
                }));
            }
            "debian" => [].as_slice(),
            "browser" => BROWSER_PACKAGES,
            "openclaw" => OPENCLAW_PACKAGES,
            recipe => {
                let message = format!("'{recipe}' is none of alpine, debian, browser, openclaw");
                return Err(Failure::argument("recipe", message));
            }
        };
        let own = own.iter().map(|package| (*package).to_owned());
        Ok(Recipe::Debian(DebianSsh {
            name: self.name,
            size_mib,
            login,
            packages: own.chain(self.packages).collect(),
        }))
    }

    /// Returns where Alpine's files come from: the caller's word, or the environment's.
    fn source(&self) -> Result<AlpineSource, Failure> {
        let location = |given: &Option<PathBuf>, name: &str| {
            let location = given
                .clone()
                .map_or_else(|| variable(name), |path| Some(path.into()));
            location.map(|location| location.to_string_lossy().into_owned())
        };
        let digest = self.minirootfs_sha256.clone().or_else(|| {
            let digest = variable("SMOLVM_ALPINE_MINIROOTFS_SHA256")?;
            Some(digest.to_string_lossy().into_owned())
        });
        let digest = digest.map(|digest| {
            Digest::from_str(&digest)
                .map_err(|error| Failure::argument("minirootfs_sha256", error.to_string()))
        });
        Ok(AlpineSource {
            mirror: location(&self.mirror, "SMOLVM_ALPINE_MIRROR"),
            minirootfs: location(&self.minirootfs, "SMOLVM_ALPINE_MINIROOTFS"),
            minirootfs_sha256: digest.transpose()?,
        })
    }
}

/// Returns the key that is in a file or is the argument itself.
fn public_key(argument: &Path) -> Result<PublicKey, Failure> {
    let text = String::from_utf8_lossy(argument.as_os_str().as_bytes());
    Ok(PublicKey::from_text_or_file(&text)?)
}

/// Builds an image unless there is one like it. Returns its kernel and its root file system.
#[pyfunction]
pub(crate) fn build_image(
    py: Python<'_>,
    image: ImageArguments,
    bundled: PathBuf,
) -> PyResult<Operation> {
    let directory = absolute(image.directory.clone());
    let prepared = || -> Result<_, Failure> {
        let installation = installation(None, &bundled)?;
        Ok((image.recipe()?, installation))
    };
    let (recipe, installation) = prepared().map_err(|failure| failure.into_py_err(py))?;
    let build = move || -> Result<SshImage, Failure> {
        let cache = Cache::open(&installation.cache_dir).map_err(Box::new)?;
        let images = SshImages {
            cache: &cache,
            directory: &directory,
            progress: &NoProgress,
        };
        let built = match &recipe {
            Recipe::Alpine(request) => images.alpine(request),
            Recipe::Debian(request) => images.debian(request),
        };
        Ok(built.map_err(Box::new)?)
    };
    let work = async move {
        tokio::task::spawn_blocking(build)
            .await
            .expect("building does not panic and is never cancelled")
    };
    Ok(Operation::new(work, |py, image| {
        (image.kernel, image.root).into_py_any(py)
    }))
}

/// Returns the pair of keys in `directory`, the private one first; makes it when it is missing.
/// `owner` is the user and group it belongs to, where that is not who asks.
#[pyfunction]
#[pyo3(signature = (directory, owner))]
pub(crate) fn ensure_key_pair(
    py: Python<'_>,
    directory: PathBuf,
    owner: Option<(u32, u32)>,
) -> PyResult<(PathBuf, PathBuf)> {
    let directory = absolute(directory);
    let pair = py.detach(|| smolvm_image::ensure_key_pair(&directory, owner));
    match pair {
        Ok(pair) => Ok((pair.private, pair.public)),
        Err(error) => Err(Failure::from(error).into_py_err(py)),
    }
}
