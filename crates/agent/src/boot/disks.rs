//! Finds the guest's disks by their virtio-blk serial numbers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_protocol::{OVERLAY_DISK_SERIAL, ROOT_DISK_SERIAL};

use super::BootError;
use super::uevents::Uevents;

/// How long the disks may take to appear. The driver finds them while it is loaded, so a disk
/// that is not there then has most likely not been given.
const DISK_PATIENCE: Duration = Duration::from_secs(3);

/// The device nodes of the guest's disks.
#[derive(Debug)]
pub(crate) struct Disks {
    /// Holds the root image.
    pub(crate) root: PathBuf,
    /// Holds what the guest writes; without it, that is the root image's own disk.
    pub(crate) overlay: Option<PathBuf>,
}

impl Disks {
    /// Finds the disks, waiting for those that are not there yet. With `is_shared` there is no
    /// overlay disk.
    ///
    /// # Errors
    ///
    /// When one does not appear in time.
    pub(crate) fn find(uevents: &Uevents, is_shared: bool) -> Result<Self, BootError> {
        let find = |serial: &'static str| {
            uevents
                .wait_until(DISK_PATIENCE, || disk_with(serial))
                .ok_or(BootError::DiskMissing {
                    serial,
                    waited_ms: DISK_PATIENCE.as_millis(),
                })
        };
        Ok(Self {
            root: find(ROOT_DISK_SERIAL)?,
            overlay: if is_shared {
                None
            } else {
                Some(find(OVERLAY_DISK_SERIAL)?)
            },
        })
    }
}

fn disk_with(serial: &str) -> Option<PathBuf> {
    let disks = fs::read_dir("/sys/block").ok()?;
    disks.flatten().find_map(|disk| {
        let found = fs::read_to_string(disk.path().join("serial")).ok()?;
        (found.trim_end() == serial).then(|| Path::new("/dev").join(disk.file_name()))
    })
}
