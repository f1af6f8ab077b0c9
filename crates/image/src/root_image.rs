//! Root images: the read-only file system a guest runs on, built from Debian packages.
//!
//! ```text
//!  `sources`: apt's own configuration ─> suite and mirrors ┐
//!  `recipe`: what is in the image ─────────────────────────┴> mmdebstrap ── tar ─┐
//!                     `rewrite`: drops what the build left, adds our files <─────┘
//!                         └─ tar ─> sqfstar ─> one squashfs file
//! ```
//!
//! Nothing is unpacked under our hands: owners, device nodes, set-uid bits, hard links and
//! extended attributes travel inside the tar streams, so the same image comes out whoever builds
//! it. Why these two programs: docs/decisions/0003-root-image-writer.md.

pub(crate) mod bootstrap;
pub(crate) mod recipe;
pub(crate) mod rewrite;
pub(crate) mod sources;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub(crate) use bootstrap::{MMDEBSTRAP, NEWUIDMAP, SQFSTAR};
pub use recipe::BROWSER_IMAGE;
pub use rewrite::RewriteError;

use crate::cache::{Artefact, ArtefactKind, Cache, CacheError, Inputs, Key, Staging, is_key_name};
use crate::command::CommandError;
use crate::digest::Digest;
use crate::progress::{Progress, step};
use recipe::Recipe;

/// The image a sandbox gets when none is named: a Debian shell with Python, git and curl, which
/// is what programs and people try first.
pub const DEFAULT_IMAGE: &str = "debian";

/// File name inside the artefact.
const IMAGE_FILE: &str = "root.squashfs";

/// Version of how images are made, besides the recipe; part of the key.
const FORMAT: u32 = 1;

/// Names of the artefact's inputs.
const SUITE: &str = "suite";
const SOURCES: &str = "sources";

/// Name of a root image: lower-case letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName(String);

/// Text that cannot be the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an image name has lower-case letters, digits and hyphens, at most 64; this is {found:?}")]
pub struct ImageNameError {
    /// The text, cut to a printable length.
    pub found: String,
}

/// A root image ready to boot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootImage {
    /// The squashfs file, to be attached read-only.
    pub path: PathBuf,
    /// Digest of the file.
    pub digest: Digest,
    /// The image's name.
    pub name: ImageName,
    /// The Debian suite it was built from.
    pub suite: String,
    /// Size of the file.
    pub size_bytes: u64,
}

/// Why there is no root image.
#[derive(Debug, thiserror::Error)]
pub enum RootImageError {
    /// No recipe has this name.
    #[error("there is no image named {name} (there are: {})", known.join(", "))]
    UnknownImage {
        /// The name asked for.
        name: ImageName,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// The cache failed.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// A host program failed.
    #[error("a host program failed")]
    Command(#[from] CommandError),
    /// The host does not say which Debian it is, so no packages can be chosen.
    #[error("the host is not Debian: {reason}")]
    HostNotDebian {
        /// What was found instead.
        reason: String,
    },
    /// apt has no package lists of the host's Debian suite.
    #[error("apt has no package lists of Debian {suite}; run: apt-get update")]
    NoPackageLists {
        /// The suite looked for.
        suite: String,
    },
    /// The keys that Debian's packages are signed with are not on the host.
    #[error("Debian's archive keys are missing (Debian package {package})")]
    NoArchiveKeys {
        /// The package that brings them.
        package: &'static str,
    },
    /// The file tree of the image cannot be read or passed on.
    #[error("cannot assemble the file tree of the image")]
    Rewrite(#[from] RewriteError),
}

/// Returns the image `name` that is prepared already, or builds it.
///
/// A prepared image is used until [`rebuild_root_image`] is called or a newer SmolVM brings a
/// changed recipe.
///
/// # Errors
///
/// When no such image is known, or it is not prepared and cannot be built.
pub fn root_image(
    cache: &Cache,
    name: &ImageName,
    progress: &dyn Progress,
) -> Result<RootImage, RootImageError> {
    let recipe = recipe_of(name)?;
    let artefact = cache.obtain(
        &key(recipe),
        progress,
        |_| true,
        |staging| build(cache, staging, recipe, progress),
    )?;
    Ok(RootImage::from_artefact(&artefact, recipe))
}

/// Builds the image `name` from today's packages. Images built before stay in the cache for the
/// sandboxes that use them.
///
/// # Errors
///
/// As [`root_image`].
pub fn rebuild_root_image(
    cache: &Cache,
    name: &ImageName,
    progress: &dyn Progress,
) -> Result<RootImage, RootImageError> {
    let recipe = recipe_of(name)?;
    let artefact = cache.build(&key(recipe), progress, |staging| {
        build(cache, staging, recipe, progress)
    })?;
    Ok(RootImage::from_artefact(&artefact, recipe))
}

/// Returns the image `name` if it is prepared already. Takes milliseconds.
///
/// # Errors
///
/// When no such image is known, or the cache cannot be read.
pub fn prepared_root_image(
    cache: &Cache,
    name: &ImageName,
    progress: &dyn Progress,
) -> Result<Option<RootImage>, RootImageError> {
    let recipe = recipe_of(name)?;
    let found = cache.find(&key(recipe), progress, |_| true)?;
    Ok(found.map(|artefact| RootImage::from_artefact(&artefact, recipe)))
}

/// Returns every image there is a recipe for, with what is prepared of it.
///
/// # Errors
///
/// When the cache cannot be read.
pub fn prepared_root_images(
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Vec<(ImageName, Option<RootImage>)>, RootImageError> {
    let names = recipe::ALL
        .iter()
        .map(|recipe| ImageName(recipe.name.to_owned()));
    names
        .map(|name| {
            let prepared = prepared_root_image(cache, &name, progress)?;
            Ok((name, prepared))
        })
        .collect()
}

/// Returns the names of all images there is a recipe for.
#[must_use]
pub fn known_images() -> Vec<&'static str> {
    recipe::ALL.iter().map(|recipe| recipe.name).collect()
}

fn recipe_of(name: &ImageName) -> Result<&'static Recipe, RootImageError> {
    recipe::ALL
        .iter()
        .copied()
        .find(|recipe| recipe.name == name.0)
        .ok_or_else(|| {
            let known = recipe::ALL.iter().map(|recipe| recipe.name).collect();
            RootImageError::UnknownImage {
                name: name.clone(),
                known,
            }
        })
}

fn key(recipe: &Recipe) -> Key {
    let digest = Digest::of_bytes(format!("{FORMAT} {recipe:?}").as_bytes()).short();
    Key::new(ArtefactKind::RootImage, format!("{}-{digest}", recipe.name))
}

fn build(
    cache: &Cache,
    staging: &Staging,
    recipe: &Recipe,
    progress: &dyn Progress,
) -> Result<Inputs, RootImageError> {
    cache.require_space(recipe.needed_bytes)?;
    let sources = step(progress, "reading apt's sources", None, || {
        sources::of_host(&staging.work())
    })?;
    let image = staging.output().join(IMAGE_FILE);
    bootstrap::build(recipe, &sources, &staging.work(), &image, progress)?;
    let inputs = [
        (SUITE, sources.suite.clone()),
        (SOURCES, sources.for_image()),
    ];
    Ok(inputs.map(|(name, value)| (name.to_owned(), value)).into())
}

impl ImageName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ImageName {
    fn default() -> Self {
        Self(DEFAULT_IMAGE.to_owned())
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 64 || !is_key_name(text) {
            return Err(ImageNameError {
                found: text.chars().take(80).collect(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl RootImage {
    fn from_artefact(artefact: &Artefact, recipe: &Recipe) -> Self {
        let (digest, size_bytes) = artefact
            .file(IMAGE_FILE)
            .unwrap_or_else(|| (artefact.digest(), 0));
        Self {
            path: artefact.path(IMAGE_FILE),
            digest,
            name: ImageName(recipe.name.to_owned()),
            suite: artefact.input(SUITE).to_owned(),
            size_bytes,
        }
    }
}

#[cfg(test)]
mod tests;
