//! The kernel's source package: an archive in an archive, unpacked as it is read.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::command::{Invocation, hear_out};
use crate::kernel::KernelError;
use crate::kernel::package::DPKG_DEB;

/// The package whose options `guest/kernel.config` names. Debian 12 (security) and 13 have it.
pub(super) const SOURCE_PACKAGE: &str = "linux-source-6.12";

/// Most bytes that are unpacked: 6.12 has 1.5 GB.
const MAX_TOTAL_BYTES: u64 = 4 << 30;

/// Unpacks the source in the package `deb` into `directory` and returns the directory it is in.
pub(super) fn unpack(deb: &Path, directory: &Path) -> Result<PathBuf, KernelError> {
    let content_error = |source| KernelError::PackageContent {
        path: deb.to_owned(),
        source,
    };
    let tree = Invocation::new(DPKG_DEB, directory)?
        .args(["--fsys-tarfile".as_ref(), deb.as_os_str()])
        .read_stdout()
        .run(&|_| {}, |running| {
            let stdout = running.stdout.take().expect("stdout was asked for");
            unpack_inner(stdout, directory).map_err(content_error)
        })?;
    tree.ok_or_else(|| KernelError::NoKernel {
        path: deb.to_owned(),
    })
}

/// Finds `linux-source-….tar.xz` in the package's archive and unpacks it.
fn unpack_inner(archive: impl Read, directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut tree = None;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.file_name().and_then(|name| name.to_str());
        let is_source =
            name.is_some_and(|name| name.starts_with("linux-source-") && name.ends_with(".tar.xz"));
        if is_source && tree.is_none() {
            tree = unpack_tree(lzma_rust2::XzReader::new(entry, true), directory)?;
        }
    }
    hear_out(archive.into_inner())?;
    Ok(tree)
}

/// Unpacks the archive `source` into `directory`, and returns its one directory.
fn unpack_tree(source: impl Read, directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut top = None;
    let mut total_bytes = 0u64;
    let mut archive = tar::Archive::new(source);
    for entry in archive.entries()? {
        let mut entry = entry?;
        total_bytes = total_bytes.saturating_add(entry.size());
        if total_bytes > MAX_TOTAL_BYTES {
            return Err(invalid("it is larger than any kernel's source"));
        }
        let path = entry.path()?.into_owned();
        let mut parts = path.components().filter(|part| *part != Component::CurDir);
        let Some(Component::Normal(first)) = parts.next() else {
            continue;
        };
        match &top {
            None => top = Some(first.to_owned()),
            Some(top) if top != first => return Err(invalid("it has more than one directory")),
            Some(_) => {}
        }
        // Refuses whatever would lead out of the directory.
        if !entry.unpack_in(directory)? {
            return Err(invalid("a path leads out of it"));
        }
    }
    Ok(top.map(|top| directory.join(top)))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            // As bytes: the builder itself refuses what leads out of an archive.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_source_in_the_package_is_unpacked() {
        let source = xz(&archive(&[
            ("linux-source-6.12/Makefile", b"VERSION = 6"),
            ("linux-source-6.12/init/Kconfig", b""),
        ]));
        let package = archive(&[
            ("./usr/share/doc/linux-source-6.12/copyright", b"GPL"),
            ("./usr/src/linux-source-6.12.tar.xz", &source),
        ]);
        let directory = tempfile::tempdir().unwrap();
        let tree = unpack_inner(package.as_slice(), directory.path()).unwrap();
        let tree = tree.expect("a source");
        assert_eq!(tree, directory.path().join("linux-source-6.12"));
        assert_eq!(
            std::fs::read(tree.join("Makefile")).unwrap(),
            b"VERSION = 6"
        );
        assert!(tree.join("init/Kconfig").exists());
    }

    #[test]
    fn a_package_without_a_source_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let package = archive(&[("./usr/src/linux-patch-6.12-rt.patch.xz", b"patch")]);
        let tree = unpack_inner(package.as_slice(), directory.path()).unwrap();
        assert_eq!(tree, None);
    }

    #[test]
    fn a_source_that_leads_out_of_its_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let source = archive(&[("linux/../../escaped", b"x")]);
        assert!(unpack_tree(source.as_slice(), &inside).is_err());
        let two = archive(&[("linux/a", b"x"), ("other/b", b"x")]);
        assert!(unpack_tree(two.as_slice(), &inside).is_err());
        assert!(!directory.path().join("escaped").exists());
    }
}
