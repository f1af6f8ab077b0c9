//! Opening the KVM device, and what is in the way when it cannot be opened.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::decide::Outcome;
use crate::kvm::errno_failure;

/// The KVM device (Linux admin-guide/devices.txt: misc, minor 232).
const DEVICE: &str = "/dev/kvm";
/// Names of the host's groups (group(5)).
const GROUPS: &str = "/etc/group";

/// Opens the device, close-on-exec, for reading and writing.
pub(super) fn open() -> Result<File, Outcome> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => denied(Path::new(DEVICE)),
            _ => Outcome::Failed(errno_failure(&error)),
        })
}

/// Returns who may open the device instead.
fn denied(device: &Path) -> Outcome {
    // A directory in the way may hide the owner; root's group is then as good as none.
    let group_id = fs::metadata(device).map_or(0, |metadata| metadata.gid());
    let groups = fs::read(GROUPS).unwrap_or_default();
    let group_name = group_name(&String::from_utf8_lossy(&groups), group_id);
    Outcome::Denied {
        group_id,
        group_name,
    }
}

/// Finds the name of group `wanted` in the text of a group file: `name:password:id:members`.
fn group_name(groups: &str, wanted: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse::<u32>().ok()?;
        (id == wanted).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP_FILE: &str = "root:x:0:\nbroken line\nkvm:x:104:alice,bob\n";

    #[test]
    fn group_is_found_by_its_number() {
        assert_eq!(group_name(GROUP_FILE, 104).as_deref(), Some("kvm"));
    }

    #[test]
    fn group_without_a_name_has_none() {
        assert_eq!(group_name(GROUP_FILE, 105), None);
    }
}
