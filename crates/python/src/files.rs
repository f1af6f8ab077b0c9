//! Files of the guest: in memory, or from and to files of the host in bounded memory.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde_bytes::ByteBuf;
use smolvm_sandbox::AccessError;
use smolvm_sandbox::message::{Attributes, FileKind, Refusal, RefusalCode, WriteFile};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::core::Core;
use crate::failure::{Failure, host};

/// Bytes of a host file read at once.
const PIECE_BYTES: usize = 256 * 1024;

fn write_request(path: &Path, mode: u32, parents: bool) -> WriteFile {
    WriteFile {
        path: ByteBuf::from(path.as_os_str().as_bytes()),
        mode,
        parents,
    }
}

/// Returns what is in a file of the guest; refuses one of more than `max_bytes`.
pub(crate) async fn read(
    core: Arc<Core>,
    path: PathBuf,
    max_bytes: usize,
) -> Result<Vec<u8>, Failure> {
    core.ensure_started().await?;
    let (_, mut reader) = core.access().read_file(path.as_os_str().as_bytes()).await?;
    let mut content = Vec::new();
    while let Some(piece) = reader.next().await? {
        content.extend_from_slice(&piece);
        if content.len() > max_bytes {
            return Err(Failure::argument(
                "path",
                format!(
                    "{} has more than {max_bytes} bytes; use download",
                    path.display()
                ),
            ));
        }
    }
    Ok(content)
}

/// Returns whether there is such a file, as stat(2) follows links and finds it.
pub(crate) async fn exists(core: Arc<Core>, path: PathBuf) -> Result<bool, Failure> {
    core.ensure_started().await?;
    match core.access().stat(path.as_os_str().as_bytes(), true).await {
        Ok(_) => Ok(true),
        Err(AccessError::Refused(Refusal {
            code: RefusalCode::NotFound | RefusalCode::NotADirectory,
            ..
        })) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes a file of the guest.
pub(crate) async fn write(
    core: Arc<Core>,
    path: PathBuf,
    content: Vec<u8>,
    mode: u32,
    parents: bool,
) -> Result<(), Failure> {
    core.ensure_started().await?;
    let request = write_request(&path, mode, parents);
    let mut writer = core.access().write_file(request).await?;
    writer.write(Bytes::from(content)).await?;
    Ok(writer.finish().await?)
}

/// Copies a file of the host to exactly `remote`.
pub(crate) async fn upload_file(
    core: Arc<Core>,
    local: PathBuf,
    remote: PathBuf,
    parents: bool,
) -> Result<u64, Failure> {
    use std::os::unix::fs::PermissionsExt as _;

    let metadata = tokio::fs::metadata(&local)
        .await
        .map_err(|error| host("read", &local, error))?;
    if !metadata.is_file() {
        // Opening a FIFO would wait for a writer.
        let message = format!("{} is not a regular file", local.display());
        return Err(Failure::argument("local_path", message));
    }
    core.ensure_started().await?;
    let mut file = tokio::fs::File::open(&local)
        .await
        .map_err(|error| host("read", &local, error))?;
    let request = write_request(&remote, metadata.permissions().mode() & 0o777, parents);
    let mut writer = core.access().write_file(request).await?;
    let mut copied = 0;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let read = file.read_buf(&mut piece).await;
        match read.map_err(|error| host("read", &local, error))? {
            0 => break,
            length => copied += u64::try_from(length).unwrap_or(u64::MAX),
        }
        writer.write(piece.freeze()).await?;
    }
    writer.finish().await?;
    Ok(copied)
}

/// Copies a file of the guest to exactly `local`, which changes only when all has arrived.
pub(crate) async fn download_file(
    core: Arc<Core>,
    remote: PathBuf,
    local: PathBuf,
) -> Result<u64, Failure> {
    if local.is_dir() {
        let message = format!("{} is a directory", local.display());
        return Err(Failure::argument("local_path", message));
    }
    core.ensure_started().await?;
    let (_, mut reader) = core
        .access()
        .read_file(remote.as_os_str().as_bytes())
        .await?;
    let parent = match local.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |error| host("write", &local, error);
    let (file, staged) = tempfile::NamedTempFile::new_in(parent)
        .map_err(failed)?
        .into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let mut copied = 0;
    while let Some(piece) = reader.next().await? {
        file.write_all(&piece).await.map_err(failed)?;
        copied += u64::try_from(piece.len()).unwrap_or(u64::MAX);
    }
    file.flush().await.map_err(failed)?;
    staged
        .persist(&local)
        .map_err(|error| host("write", &local, error.error))?;
    Ok(copied)
}

/// Makes Python's dictionary of a file's attributes.
pub(crate) fn attributes<'py>(
    py: Python<'py>,
    name: Option<&[u8]>,
    attributes: &Attributes,
) -> PyResult<Bound<'py, PyDict>> {
    let decoded = |bytes: &[u8]| {
        // Names that are not UTF-8 come back as they went, as everywhere in Python (PEP 383).
        PyBytes::new(py, bytes).call_method1("decode", ("utf-8", "surrogateescape"))
    };
    let entry = PyDict::new(py);
    entry.set_item("name", name.map(decoded).transpose()?)?;
    let kind = match attributes.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Other => "other",
    };
    entry.set_item("kind", kind)?;
    entry.set_item("size", attributes.size)?;
    entry.set_item("mode", attributes.mode)?;
    entry.set_item("uid", attributes.uid)?;
    entry.set_item("gid", attributes.gid)?;
    entry.set_item("modified_unix_ns", attributes.modified_unix_ns)?;
    let target = attributes.target.as_ref().map(|target| decoded(target));
    entry.set_item("target", target.transpose()?)?;
    Ok(entry)
}
