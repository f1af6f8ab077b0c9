//! Which kernel machines boot, of those that there are.
//!
//! The choice is a small file in the cache, `kernel-choice.json`, because it is about what lies
//! there, and because whoever opens the cache is to boot the same kernel: the command, the Python
//! package, the builder of images. Without the file the tuned kernel is used where it is built.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Artefact, Cache, CacheError, io_error};
use crate::kernel::{Kernel, KernelError, RELEASE, stock, tuned};
use crate::progress::Progress;

/// The file, and its version: it grows whenever a field is added or changes its meaning.
const CHOICE_FILE: &str = "kernel-choice.json";
const CHOICE_VERSION: u32 = 1;

/// Largest file that is read; ours has some 100 bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// Longest release of a kernel: `__NEW_UTS_LEN` (Linux include/uapi/linux/utsname.h).
const MAX_RELEASE_BYTES: usize = 64;

/// Whose configuration a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFlavour {
    /// The distribution's.
    Stock,
    /// Ours.
    Tuned,
}

/// Which kernel the user wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum KernelChoice {
    /// The stock kernel, whichever is newest.
    Stock,
    /// The tuned kernel, whichever is newest.
    Tuned,
    /// The one that calls itself so, see `uname -r`.
    Release(String),
}

/// Why a kernel cannot be chosen, or one that was chosen cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelChoiceError {
    /// No kernel can have this name.
    #[error("{found:?} is neither stock nor tuned nor the release of a kernel")]
    Name {
        /// The name, cut to a printable length.
        found: String,
    },
    /// There is no such kernel.
    #[error("the kernel {choice} is not in the cache")]
    NotPrepared {
        /// What was chosen.
        choice: KernelChoice,
    },
    /// The file with the choice cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file with the choice is not one that this version writes.
    #[error("{} is damaged, or of another version", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said, unless only the version is another.
        source: Option<serde_json::Error>,
    },
}

/// A kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedKernel {
    /// The kernel.
    pub kernel: Kernel,
    /// Whose configuration it has.
    pub flavour: KernelFlavour,
    /// Size of the image and the modules, in bytes.
    pub size_bytes: u64,
    /// Whether it is the one that machines boot.
    pub is_used: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChoiceFile {
    version: u32,
    kernel: KernelChoice,
}

impl KernelFlavour {
    /// Returns its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Tuned => "tuned",
        }
    }
}

impl TryFrom<String> for KernelChoice {
    type Error = KernelChoiceError;

    fn try_from(name: String) -> Result<Self, KernelChoiceError> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._+~-".contains(letter);
        // A release begins with its version, so that no misspelt word is one.
        let is_release = name.starts_with(|letter: char| letter.is_ascii_digit())
            && name.len() <= MAX_RELEASE_BYTES
            && name.chars().all(is_plain);
        match name.as_str() {
            "stock" => Ok(Self::Stock),
            "tuned" => Ok(Self::Tuned),
            _ if is_release => Ok(Self::Release(name)),
            _ => Err(KernelChoiceError::Name {
                found: name.chars().take(80).collect(),
            }),
        }
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stock => KernelFlavour::Stock.as_str(),
            Self::Tuned => KernelFlavour::Tuned.as_str(),
            Self::Release(release) => release,
        })
    }
}

impl From<KernelChoice> for String {
    fn from(choice: KernelChoice) -> Self {
        choice.to_string()
    }
}

/// Returns what the user has chosen, if anything.
///
/// # Errors
///
/// When the file with the choice cannot be read.
pub fn kernel_choice(cache: &Cache) -> Result<Option<KernelChoice>, KernelError> {
    let path = cache.root().join(CHOICE_FILE);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KernelChoiceError::Read { path, source }.into()),
    };
    match serde_json::from_str::<ChoiceFile>(&text) {
        Ok(file) if file.version == CHOICE_VERSION => Ok(Some(file.kernel)),
        Ok(_) => Err(KernelChoiceError::Damaged { path, source: None }.into()),
        Err(source) => Err(KernelChoiceError::Damaged {
            path,
            source: Some(source),
        }
        .into()),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(
        &mut io::Read::take(File::open(path)?, MAX_FILE_BYTES),
        &mut text,
    )?;
    Ok(text)
}

/// Lets machines boot the kernel of this name from their next start on, and returns it; none for a
/// stock kernel that is prepared only when it is needed.
///
/// # Errors
///
/// When there is no such kernel in the cache, or the choice cannot be stored.
pub fn use_kernel(
    cache: &Cache,
    choice: KernelChoice,
    progress: &dyn Progress,
) -> Result<Option<Kernel>, KernelError> {
    let kernel = resolved(cache, &choice, progress)?;
    store(cache, choice)?;
    Ok(kernel)
}

fn store(cache: &Cache, choice: KernelChoice) -> Result<(), CacheError> {
    let path = cache.root().join(CHOICE_FILE);
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let file = ChoiceFile {
        version: CHOICE_VERSION,
        kernel: choice,
    };
    let text = serde_json::to_string(&file).expect("texts and integers always serialize");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        io_error("write", &path, source)
    })
}

/// Returns the kernel to boot, unless it is a stock kernel that is not prepared.
pub(super) fn chosen(
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Option<Kernel>, KernelError> {
    match kernel_choice(cache)? {
        Some(choice) => resolved(cache, &choice, progress),
        None => match tuned::prepared(cache, progress)? {
            Some(kernel) => Ok(Some(kernel)),
            None => stock::prepared(cache, progress),
        },
    }
}

/// Returns the kernel of this choice; only a stock kernel may be missing, as it is prepared on
/// demand.
fn resolved(
    cache: &Cache,
    choice: &KernelChoice,
    progress: &dyn Progress,
) -> Result<Option<Kernel>, KernelError> {
    let found = match choice {
        KernelChoice::Stock => return stock::prepared(cache, progress),
        KernelChoice::Tuned => tuned::prepared(cache, progress)?,
        KernelChoice::Release(release) => of_release(cache, release, progress)?,
    };
    match found {
        Some(kernel) => Ok(Some(kernel)),
        None => Err(KernelChoiceError::NotPrepared {
            choice: choice.clone(),
        }
        .into()),
    }
}

fn of_release(
    cache: &Cache,
    release: &str,
    progress: &dyn Progress,
) -> Result<Option<Kernel>, KernelError> {
    let has_it = |artefact: &Artefact| artefact.input(RELEASE) == release;
    for key in [tuned::key(), stock::key()] {
        if let Some(artefact) = cache.find(&key, progress, has_it)? {
            return Kernel::from_artefact(&artefact).map(Some);
        }
    }
    Ok(None)
}

/// Returns the kernels in the cache, the newest of each flavour first.
///
/// # Errors
///
/// When the cache or the file with the choice cannot be read.
pub fn kernels(cache: &Cache, progress: &dyn Progress) -> Result<Vec<PreparedKernel>, KernelError> {
    let used = match chosen(cache, progress) {
        Ok(used) => used,
        // The one that was chosen is not there: none is used.
        Err(KernelError::Choice(KernelChoiceError::NotPrepared { .. })) => None,
        Err(error) => return Err(error),
    };
    let mut kernels = Vec::new();
    for (flavour, key) in [
        (KernelFlavour::Stock, stock::key()),
        (KernelFlavour::Tuned, tuned::key()),
    ] {
        for artefact in cache.find_all(&key, progress)? {
            let kernel = Kernel::from_artefact(&artefact)?;
            kernels.push(PreparedKernel {
                is_used: used.as_ref().is_some_and(|used| used.image == kernel.image),
                size_bytes: artefact.size_bytes(),
                flavour,
                kernel,
            });
        }
    }
    Ok(kernels)
}

#[cfg(test)]
mod tests;
