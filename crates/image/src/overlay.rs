//! Overlay disks: empty ext4 file systems, made once per size and copied for each sandbox.

use std::fs::File;
use std::path::PathBuf;

use crate::cache::{ArtefactKind, Cache, CacheError, Inputs, Key, Staging, io_error};
use crate::command::{CommandError, Invocation, Program};
use crate::progress::{Progress, step};

/// File name inside the artefact.
const DISK_FILE: &str = "overlay.ext4";

/// Version of how the file system is made; part of the key.
const FORMAT: u32 = 1;

/// Smallest overlay, in MiB: below, the journal alone would be a quarter of the disk.
pub const MIN_OVERLAY_MIB: u32 = 16;

/// Largest overlay, in MiB: 16 TiB, the largest file on ext4 with 4 KiB blocks (ext4(5)), which
/// is where most caches live.
const MAX_OVERLAY_MIB: u32 = 16 << 20;

pub(crate) const MKFS_EXT4: Program = Program {
    name: "mkfs.ext4",
    package: "e2fsprogs",
};

/// How the file system is made (mke2fs(8)).
///
/// * `-b 4096`: small disks would get 1 KiB blocks, four times the work per page.
/// * `-m 0`: everything runs as root in the guest, a reserve protects nobody.
/// * `-J size=4`: the smallest journal; a copy of the template carries it along.
/// * `lazy_*_init=0`: the guest's kernel shall not zero tables in the background. On a sparse
///   file that costs nothing now either: mkfs punches holes.
/// * `packed_meta_blocks=1`: metadata lies at the front, so copies and snapshots have few extents.
/// * `^resize_inode`: room for growth online, which no sandbox uses, costs up to 4 MiB.
#[rustfmt::skip]
const OPTIONS: &[&str] = &[
    "-q",
    "-F",
    "-b",
    "4096",
    "-m",
    "0",
    "-J",
    "size=4",
    "-O",
    "^resize_inode",
    "-L",
    "overlay",
    "-E",
    "lazy_itable_init=0,lazy_journal_init=0,packed_meta_blocks=1,root_owner=0:0",
];

/// Why there is no overlay template.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The size is outside what the file system can be.
    #[error(
        "an overlay of {size_mib} MiB is not possible ({MIN_OVERLAY_MIB} to {MAX_OVERLAY_MIB} MiB)"
    )]
    Size {
        /// The size asked for.
        size_mib: u32,
    },
    /// The cache failed.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// mkfs.ext4 failed.
    #[error("a host program failed")]
    Command(#[from] CommandError),
}

/// Returns a formatted, empty, sparse overlay disk of `size_mib`, to be copied with
/// [`copy_sparse`](crate::copy_sparse) and never to be written to.
///
/// # Errors
///
/// When the size is impossible, mkfs.ext4 is missing or fails, or the result cannot be stored.
pub fn overlay_template(
    cache: &Cache,
    size_mib: u32,
    progress: &dyn Progress,
) -> Result<PathBuf, OverlayError> {
    if !(MIN_OVERLAY_MIB..=MAX_OVERLAY_MIB).contains(&size_mib) {
        return Err(OverlayError::Size { size_mib });
    }
    let key = Key::new(
        ArtefactKind::Overlay,
        format!("ext4-v{FORMAT}-{size_mib}mib"),
    );
    let artefact = cache.obtain(
        &key,
        progress,
        |_| true,
        |staging| {
            step(progress, "formatting the overlay disk", None, || {
                format(staging, size_mib)
            })
        },
    )?;
    Ok(artefact.path(DISK_FILE))
}

fn format(staging: &Staging, size_mib: u32) -> Result<Inputs, OverlayError> {
    let path = staging.output().join(DISK_FILE);
    let file = File::create(&path).map_err(|source| io_error("create", &path, source))?;
    let size_bytes = u64::from(size_mib) << 20;
    file.set_len(size_bytes)
        .map_err(|source| io_error("size", &path, source))?;
    Invocation::new(MKFS_EXT4, &staging.work())?
        .args(OPTIONS)
        .args([path.as_os_str()])
        .output()?;
    Ok(Inputs::from([("options".to_owned(), OPTIONS.join(" "))]))
}
