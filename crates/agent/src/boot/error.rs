//! Why a guest cannot boot.

use std::io;
use std::path::PathBuf;

/// A required step of the boot failed. Reads on from "failed to".
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("mount {what} at {target}")]
    Mount {
        what: &'static str,
        target: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("make directory {path}")]
    MakeDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("listen to the kernel's device events")]
    Uevents(#[source] io::Error),
    #[error("find disk {serial}: not there after {waited_ms} ms")]
    DiskMissing {
        serial: &'static str,
        waited_ms: u128,
    },
    #[error("read disk {path}")]
    ReadDisk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("recognise the file system of the root image on {path}")]
    UnknownRootImage { path: PathBuf },
    #[error("switch to the new root at {step}")]
    SwitchRoot {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("find port {name}: not there after {waited_ms} ms")]
    PortMissing { name: &'static str, waited_ms: u128 },
    #[error("open port {path}")]
    OpenPort {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the runtime at {step}")]
    Runtime {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}
