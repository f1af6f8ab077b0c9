//! Finds and opens the virtio-console port to the host.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use smolvm_protocol::AGENT_PORT;

use super::BootError;
use super::uevents::Uevents;

/// How long the port may take to appear. The driver talks with the device about its ports in the
/// background (Virtio 1.2 §5.3.6.2), which takes milliseconds.
const PORT_PATIENCE: Duration = Duration::from_secs(10);

/// Opens the agent's port, waiting for it to appear. The descriptor does not block.
///
/// # Errors
///
/// When it does not appear in time or cannot be opened.
pub(crate) fn open(uevents: &Uevents) -> Result<(OwnedFd, PathBuf), BootError> {
    let path = uevents
        .wait_until(PORT_PATIENCE, find)
        .ok_or(BootError::PortMissing {
            name: AGENT_PORT,
            waited_ms: PORT_PATIENCE.as_millis(),
        })?;
    match open_node(&path) {
        Ok(port) => Ok((port, path)),
        Err(source) => Err(BootError::OpenPort { path, source }),
    }
}

/// Opens the port of which `node` is the device. Only one can have it open at a time.
///
/// # Errors
///
/// When it cannot be opened.
pub(crate) fn open_node(node: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(node, flags, Mode::empty())?)
}

/// Returns the device node of the agent's port, made where devtmpfs has not.
fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        if name.trim_end() != AGENT_PORT {
            return None;
        }
        let node = Path::new("/dev").join(port.file_name());
        if !node.exists() {
            make_node(&node, &port.path())?;
        }
        Some(node)
    })
}

fn make_node(node: &Path, port: &Path) -> Option<()> {
    let numbers = fs::read_to_string(port.join("dev")).ok()?;
    let (major, minor) = numbers.trim_end().split_once(':')?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, node, FileType::CharacterDevice, mode, device).ok()
}
