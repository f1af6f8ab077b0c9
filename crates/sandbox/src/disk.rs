//! The writable disk of a sandbox: a copy of a template, or what the last sandbox of its name left.

use std::io;
use std::path::Path;

use smolvm_image::Progress;

use crate::record::SandboxDir;
use crate::store::files_error;
use crate::{CreateError, EngineChoice, SandboxSpec};

/// Makes the disk of a new sandbox in its `directory`. A disk that was kept is `kept`.
pub(crate) fn make(
    spec: &SandboxSpec,
    directory: &SandboxDir,
    kept: &Path,
    cache_dir: &Path,
    progress: &dyn Progress,
) -> Result<(), CreateError> {
    let is_shared = spec.custom.as_ref().is_some_and(|custom| custom.is_shared);
    if spec.engine == EngineChoice::Fake || is_shared {
        return Ok(());
    }
    if take_kept(spec, kept, &directory.overlay())? {
        return Ok(());
    }
    let cache = smolvm_image::Cache::open(cache_dir)?;
    let template = smolvm_image::overlay_template(&cache, spec.disk.get(), progress)?;
    smolvm_image::copy_sparse(&template, &directory.overlay())?;
    let mark = directory.blank_mark();
    std::fs::write(&mark, []).map_err(|source| files_error("make", &mark, source))?;
    Ok(())
}

/// Says whether nothing has been written to the disk yet, and that this may change from now on.
pub(crate) fn take_blank(directory: &SandboxDir) -> bool {
    std::fs::remove_file(directory.blank_mark()).is_ok()
}

/// Makes the disk of a sandbox, on which nothing is yet, a copy of `other`.
pub(crate) fn replace(directory: &SandboxDir, other: &Path) -> Result<(), smolvm_image::CopyError> {
    let overlay = directory.overlay();
    let made = overlay.with_extension("new");
    smolvm_image::copy_sparse(other, &made)?;
    std::fs::rename(&made, &overlay).map_err(|source| smolvm_image::CopyError::Destination {
        path: overlay,
        source,
    })
}

/// Gives the disk `kept` the further name `overlay`, so that nothing is lost when the sandbox is
/// not made after all. Returns whether there is such a disk.
fn take_kept(spec: &SandboxSpec, kept: &Path, overlay: &Path) -> Result<bool, CreateError> {
    let bytes = match std::fs::metadata(kept) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(files_error("examine", kept, source).into()),
    };
    if bytes != u64::from(spec.disk.get()) << 20 {
        return Err(CreateError::KeptDiskSize {
            id: spec.id.clone(),
            kept_mib: bytes >> 20,
            wanted_mib: spec.disk.get(),
            path: kept.to_owned(),
        });
    }
    std::fs::hard_link(kept, overlay).map_err(|source| files_error("take over", kept, source))?;
    Ok(true)
}
