//! What the host has: an accelerator, programs, prepared images.

use std::path::PathBuf;

use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use smolvm_image::{
    Cache, ImageName, NoProgress, host_programs, kernel, known_images, prepared_kernel,
    prepared_root_image, root_image,
};
use smolvm_sandbox::engine::Accelerator;
use smolvm_sandbox::{CreateError, accelerator};

use crate::failure::Failure;
use crate::installation::installation;
use crate::operation::Operation;

/// What the host has of what sandboxes need.
struct Report {
    /// Whether KVM can be used, and why.
    has_kvm: bool,
    reason: String,
    /// Programs that are missing, with the packages they are in.
    missing: Vec<(&'static str, &'static str)>,
    has_qemu: bool,
}

/// Looks at the host.
#[pyfunction]
pub(crate) fn host_report(py: Python<'_>, bundled: PathBuf) -> PyResult<Operation> {
    let installation = installation(None, &bundled).map_err(|failure| failure.into_py_err(py))?;
    let work = async move {
        let (has_kvm, reason) = match accelerator::choose(&installation).await {
            Ok(choice) => (choice.accelerator == Accelerator::Kvm, choice.reason),
            Err(error) => (false, crate::failure::chain(&error)),
        };
        let missing = host_programs()
            .into_iter()
            .filter(|program| program.path.is_none())
            .map(|program| (program.name, program.package))
            .collect();
        Ok::<_, Failure>(Report {
            has_kvm,
            reason,
            missing,
            has_qemu: installation.qemu.is_some(),
        })
    };
    Ok(Operation::new(work, |py, report| {
        let known = PyDict::new(py);
        known.set_item("has_kvm", report.has_kvm)?;
        known.set_item("reason", report.reason)?;
        known.set_item("missing", report.missing)?;
        known.set_item("has_qemu", report.has_qemu)?;
        known.into_py_any(py)
    }))
}

/// Returns the kernel and the root file system of an image by its name, preparing them; only when
/// they are there, if `is_looking`.
#[pyfunction]
pub(crate) fn image_files(
    py: Python<'_>,
    name: String,
    cache_dir: Option<PathBuf>,
    is_looking: bool,
    bundled: PathBuf,
) -> PyResult<Operation> {
    let prepared = || -> Result<_, Failure> {
        let known = known_images();
        let is_known = known.contains(&name.as_str());
        let image = name.parse::<ImageName>().ok().filter(|_| is_known);
        let image = image.ok_or(CreateError::UnknownImage { image: name, known })?;
        let directory = match cache_dir {
            Some(directory) => directory,
            None => installation(None, &bundled)?.cache_dir,
        };
        Ok((image, directory))
    };
    let (image, directory) = prepared().map_err(|failure| failure.into_py_err(py))?;
    let find = move || -> Result<Option<(PathBuf, PathBuf)>, Failure> {
        let cache = Cache::open(&directory).map_err(Box::new)?;
        let (kernel, root) = if is_looking {
            let kernel = prepared_kernel(&cache, &NoProgress).map_err(boxed)?;
            let root = prepared_root_image(&cache, &image, &NoProgress).map_err(boxed)?;
            (kernel, root)
        } else {
            let kernel = kernel(&cache, &NoProgress).map_err(boxed)?;
            let root = root_image(&cache, &image, &NoProgress).map_err(boxed)?;
            (Some(kernel), Some(root))
        };
        Ok(kernel
            .zip(root)
            .map(|(kernel, root)| (kernel.image, root.path)))
    };
    let work = async move {
        tokio::task::spawn_blocking(find)
            .await
            .expect("looking does not panic and is never cancelled")
    };
    Ok(Operation::new(work, |py, files| files.into_py_any(py)))
}

fn boxed(error: impl Into<smolvm_image::SshImageError>) -> Box<smolvm_image::SshImageError> {
    Box::new(error.into())
}
