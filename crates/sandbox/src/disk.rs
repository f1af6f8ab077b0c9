//! The writable disk of a sandbox.

use std::path::Path;

use smolvm_image::Progress;

use crate::record::SandboxDir;
use crate::{CreateError, EngineChoice, SandboxSpec};

/// Makes the disk of a new sandbox in its `directory`.
pub(crate) fn make(
    spec: &SandboxSpec,
    directory: &SandboxDir,
    cache_dir: &Path,
    progress: &dyn Progress,
) -> Result<(), CreateError> {
    if spec.engine == EngineChoice::Fake {
        return Ok(());
    }
    let cache = smolvm_image::Cache::open(cache_dir)?;
    let template = smolvm_image::overlay_template(&cache, spec.disk.get(), progress)?;
    smolvm_image::copy_sparse(&template, &directory.overlay())?;
    Ok(())
}
