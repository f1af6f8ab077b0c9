//! Kernel modules from the initramfs.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::io::Errno;
use smolvm_protocol::{BOOT_MODULE_LIST, MODULE_DIRECTORY};

use super::console;

/// Loads the modules that the boot waits for. One that fails is reported: what it drives is
/// missed by name later, or not at all.
pub(crate) fn load_boot_modules() {
    for (name, file) in open_listed(BOOT_MODULE_LIST) {
        load_or_report(&name, file);
    }
}

/// Modules that are loaded after the boot, if at all.
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
