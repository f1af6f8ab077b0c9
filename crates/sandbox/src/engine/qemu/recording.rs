//! Files of a recorded machine.
//!
//! QEMU has the guest's memory in a file, shared while the machine that is to be recorded runs, and
//! private to each that goes on from it: a page is copied when it is written. What is beside the memory
//! is a migration without it (QEMU 7.2, qapi/migration.json, `x-ignore-shared`).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::engine::{BootError, BootPlan, Origin, Recording};

/// Mode of the files: a guest's memory is its owner's business. QEMU opens even a file of which it has
/// a private view for writing.
const MODE: u32 = 0o600;

/// Opens the file of the machine's state, if it has one; makes both files of a machine that is to be
/// recorded.
pub(super) fn open_state(plan: &BootPlan) -> Result<Option<File>, BootError> {
    match &plan.origin {
        Origin::Kernel => Ok(None),
        Origin::ToBeRecorded(Recording { memory, state }) => {
            let bytes = u64::from(plan.memory.get()) << 20;
            let made = make(memory).and_then(|file| file.set_len(bytes));
            made.map_err(|source| error(memory, source))?;
            make(state).map(Some).map_err(|source| error(state, source))
        }
        Origin::Recording(Recording { state, .. }) => {
            let opened = File::open(state).map(Some);
            opened.map_err(|source| error(state, source))
        }
    }
}

fn make(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(MODE).open(path)
}

fn error(path: &Path, source: std::io::Error) -> BootError {
    BootError::Recording {
        path: path.to_owned(),
        source,
    }
}
