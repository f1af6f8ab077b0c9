//! Kernel modules from the initramfs.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread::{self, JoinHandle};

use rustix::io::Errno;
use smolvm_protocol::{
    BOOT_MODULE_LIST, MODULE_DIRECTORY, NETWORK_MODULE_LIST, SOCKET_MODULE_LIST,
};

use super::console;

/// Loads the modules that the boot waits for. One that fails is reported: what it drives is
/// missed by name later, or not at all.
pub(crate) fn load_boot_modules() {
    for (name, file) in open_listed(BOOT_MODULE_LIST) {
        load_or_report(&name, file);
    }
}

/// Modules that are loaded once the boot does not need the initramfs any more.
///
/// They are open files, because the initramfs is gone by then.
#[derive(Debug)]
pub(crate) struct HeldModules(Vec<(String, io::Result<File>)>);

impl HeldModules {
    /// Opens the modules that the file `list` names.
    pub(crate) fn open(list: &str) -> Self {
        Self(open_listed(list).collect())
    }

    /// Loads the modules. Blocks.
    pub(crate) fn load(self) {
        for (name, file) in self.0 {
            load_or_report(&name, file);
        }
    }
}

/// The driver of the network device, being loaded while the boot goes on.
#[derive(Debug)]
pub(crate) struct NetworkDriver(JoinHandle<()>);

impl NetworkDriver {
    /// Begins to load the driver, if the machine has a network device.
    ///
    /// Preconditions: the bus of the device is driven, and the initramfs still there.
    pub(crate) fn load() -> Option<Self> {
        if !has_network_device() {
            return None;
        }
        let modules = HeldModules::open(NETWORK_MODULE_LIST);
        let thread = thread::Builder::new()
            .name("network driver".to_owned())
            .spawn(move || modules.load());
        match thread {
            Ok(thread) => Some(Self(thread)),
            Err(error) => {
                console::report(&format!("network driver not loaded: {error}"));
                None
            }
        }
    }

    /// Waits until the driver is loaded and has found its device. Blocks.
    pub(crate) fn wait(self) {
        // The hook has reported a panic; the interface is missed by its address.
        let _ = self.0.join();
    }
}

/// Opens the modules by which the kernel tells of its sockets, if the machine has a network device:
/// without one, nobody asks.
///
/// Preconditions: as for [`NetworkDriver::load`].
pub(crate) fn open_socket_modules() -> Option<HeldModules> {
    has_network_device().then(|| HeldModules::open(SOCKET_MODULE_LIST))
}

/// Device type of a network card, as sysfs shows it (Virtio 1.2 §5, "Device Types").
const VIRTIO_NETWORK: &str = "0x0001";

fn has_network_device() -> bool {
    let devices = fs::read_dir("/sys/bus/virtio/devices");
    devices.into_iter().flatten().flatten().any(|device| {
        fs::read_to_string(device.path().join("device"))
            .is_ok_and(|kind| kind.trim_end() == VIRTIO_NETWORK)
    })
}

/// Opens the modules that `list` names. A list that is missing is empty: a kernel with
/// everything built in needs none.
fn open_listed(list: &str) -> impl Iterator<Item = (String, io::Result<File>)> {
    let names = fs::read_to_string(list).unwrap_or_default();
    let names: Vec<String> = module_names(&names).map(str::to_owned).collect();
    names.into_iter().map(|name| {
        let file = File::open(Path::new(MODULE_DIRECTORY).join(&name));
        (name, file)
    })
}

fn module_names(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn load_or_report(name: &str, file: io::Result<File>) {
    let result = file.and_then(|file| match rustix::system::finit_module(&file, c"", 0) {
        // It is built in, or loaded already.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // What the kernel calls a symbol that no loaded module exports (finit_module(2)).
        Err(Errno::NOENT) => Err(io::Error::other("a module it needs is not loaded")),
        Err(errno) => Err(errno.into()),
    });
    if let Err(error) = result {
        console::report(&format!("module {name} not loaded: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_and_comments_are_no_modules() {
        let list = "# drivers\nvirtio.ko\n\n  virtio_ring.ko  \n";
        assert_eq!(
            module_names(list).collect::<Vec<_>>(),
            ["virtio.ko", "virtio_ring.ko"]
        );
    }
}
