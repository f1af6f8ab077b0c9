//! The jail of each VMM: which files of this host it is given. What a jail is, and how it is entered,
//! is `smolvm-jail`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use smolvm_jail::{JailPlan, Program};

use crate::engine::{Accelerator, BootPlan, Origin};

/// Room for the VMM's own small writes above its largest disk.
const FILE_SIZE_SLACK_BYTES: u64 = 1024 * 1024;

/// Returns the jail of a QEMU that runs `plan`.
#[must_use]
pub(crate) fn of_qemu(
    program: &Path,
    arguments: Vec<OsString>,
    plan: &BootPlan,
    accelerator: Accelerator,
) -> JailPlan {
    // Not by a link to it, such as a whole `/bin` is on many hosts: links are not in the VMM's
    // root, and QEMU finds its firmware by where it is itself.
    let path = program.canonicalize().unwrap_or_else(|_| program.into());
    let mut jail = around(plan);
    // The program's libraries and firmware, and what the C library reads at start.
    let system = [
        "/usr",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/etc/ld.so.preload",
        "/dev/urandom",
        "/dev/null",
    ];
    jail.readable.extend(system.map(PathBuf::from));
    jail.readable.push(path.clone());
    if accelerator == Accelerator::Kvm {
        jail.writable.push("/dev/kvm".into());
    }
    jail.program = Some(Program { path, arguments });
    jail
}

/// Returns the jail of our monitor that runs `plan`.
#[must_use]
pub(crate) fn of_monitor(plan: &BootPlan) -> JailPlan {
    let mut jail = around(plan);
    jail.writable.push("/dev/kvm".into());
    jail
}

/// Returns a jail with the files of the machine, whatever runs it.
fn around(plan: &BootPlan) -> JailPlan {
    let mut readable = vec![plan.kernel.clone(), plan.initramfs.clone()];
    let mut writable = plan.extra_drives.clone();
    match &plan.overlay {
        Some(overlay) => {
            readable.push(plan.root_image.clone());
            writable.push(overlay.clone());
        }
        None => writable.push(plan.root_image.clone()),
    }
    match &plan.origin {
        Origin::Kernel => {}
        // A private view of the memory changes nothing in the file, but QEMU opens it for writing.
        Origin::ToBeRecorded(recording) | Origin::Recording(recording) => {
            writable.push(recording.memory.clone());
        }
    }
    let sizes = writable.iter().flat_map(std::fs::metadata);
    let largest_bytes = sizes.map(|file| file.len()).max().unwrap_or(0);
    JailPlan {
        program: None,
        readable,
        writable,
        max_file_bytes: largest_bytes.saturating_add(FILE_SIZE_SLACK_BYTES),
        supervisor_pid: std::process::id(),
    }
}
