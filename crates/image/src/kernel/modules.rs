//! Which kernel modules a guest loads, and in which order.
//!
//! Packages carry no modules.dep (depmod runs at installation), so dependencies come from where
//! depmod finds them too: the `.modinfo` section of each module, a list of `name=value` texts
//! (Linux include/linux/moduleinfo.h).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use crate::kernel::boot_image::{decompress_zstd, read_bounded};

/// What the boot waits for: the bus, the two disks, the agent's port, and both file systems of
/// the root. ext4 is built in.
pub(super) const BOOT_MODULES: &[&str] = &[
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "squashfs",
    "overlay",
];

/// What can wait until the agent has answered: the power button (ACPI stop requests), entropy,
/// FUSE.
pub(super) const LATE_MODULES: &[&str] = &["button", "evdev", "virtio_rng", "fuse"];

/// What only a guest with a network needs.
pub(super) const NETWORK_MODULES: &[&str] = &["virtio_net"];

/// What tells whose a TCP or UDP socket is, loaded when that is first asked (sock_diag(7)).
pub(super) const SOCKET_MODULES: &[&str] = &["tcp_diag", "udp_diag"];

/// Why the modules of a kernel are not usable.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A module that is needed is neither in the package nor built in.
    #[error("the module {name} is missing{}",
        needed_by.as_ref().map_or(String::new(), |other| format!(", needed by {other}")))]
    Missing {
        /// The module.
        name: String,
        /// The module that depends on it, unless a guest needs it directly.
        needed_by: Option<String>,
    },
    /// A module file cannot be read or decompressed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: io::Error,
    },
    /// A module is not an ELF object with a `.modinfo` section.
    #[error("{name} is not a kernel module")]
    NotAModule {
        /// The module.
        name: String,
        /// What the ELF parser said, unless only the section is missing.
        source: Option<object::Error>,
    },
    /// Modules depend on each other in a circle, which no kernel build produces.
    #[error("the module {name} depends on itself")]
    Circle {
        /// A module of the circle.
        name: String,
    },
}

/// All modules of one kernel, still on disk.
#[derive(Debug)]
pub(super) struct ModuleSet {
    /// Normalised name -> file.
    files: BTreeMap<String, PathBuf>,
    /// Normalised names of what is part of the kernel image.
    built_in: BTreeSet<String>,
}

/// One module, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl Module {
    pub(super) fn file_name(&self) -> String {
        format!("{}.ko", self.name)
    }
}

impl ModuleSet {
    /// Takes the module files and the text of `modules.builtin`, one path per line.
    pub(super) fn new(files: impl IntoIterator<Item = PathBuf>, built_in: String) -> Self {
        let named = |path: PathBuf| module_name(&path).map(|name| (name, path));
        Self {
            files: files.into_iter().filter_map(named).collect(),
            built_in: built_in
                .lines()
                .filter_map(|line| module_name(Path::new(line)))
                .collect(),
        }
    }

    /// Returns `wanted` with everything it depends on, dependencies first, without what is built
    /// in and without what is `loaded` already.
    pub(super) fn resolve(
        &self,
        wanted: &[&str],
        loaded: &[Module],
    ) -> Result<Vec<Module>, ModuleError> {
        let mut walk = Walk {
            set: self,
            done: loaded.iter().map(|module| module.name.clone()).collect(),
            path: Vec::new(),
            order: Vec::new(),
        };
        wanted
            .iter()
            .try_for_each(|name| walk.visit(&normalised(name)))?;
        Ok(walk.order)
    }
}

/// A depth-first walk along dependencies.
struct Walk<'a> {
    set: &'a ModuleSet,
    done: BTreeSet<String>,
    /// From a wanted module to the one being visited.
    path: Vec<String>,
    order: Vec<Module>,
}

impl Walk<'_> {
    fn visit(&mut self, name: &str) -> Result<(), ModuleError> {
        if self.done.contains(name) || self.set.built_in.contains(name) {
            return Ok(());
        }
        if self.path.iter().any(|visited| visited == name) {
            return Err(ModuleError::Circle {
                name: name.to_owned(),
            });
        }
        let path = self
            .set
            .files
            .get(name)
            .ok_or_else(|| ModuleError::Missing {
                name: name.to_owned(),
                needed_by: self.path.last().cloned(),
            })?;
        let bytes = read_module(path).map_err(|source| ModuleError::Read {
            path: path.clone(),
            source,
        })?;
        self.path.push(name.to_owned());
        for dependency in dependencies(name, &bytes)? {
            self.visit(&dependency)?;
        }
        self.path.pop();
        self.done.insert(name.to_owned());
        self.order.push(Module {
            name: name.to_owned(),
            bytes,
        });
        Ok(())
    }
}

/// Returns the normalised name of the module in the file `path`, if it is a module at all.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .find_map(|end| name.strip_suffix(end));
    stem.filter(|stem| !stem.is_empty()).map(normalised)
}

/// Hyphen and underscore are the same in module names (modprobe(8)).
fn normalised(name: &str) -> String {
    name.replace('-', "_")
}

fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => read_bounded(lzma_rust2::XzReader::new(bytes.as_slice(), false)),
        Some("zst") => decompress_zstd(&bytes),
        Some("gz") => read_bounded(flate2::read::GzDecoder::new(bytes.as_slice())),
        _ => Ok(bytes),
    }
}

/// Returns the normalised names of the modules that the module in `bytes` depends on.
pub(super) fn dependencies(name: &str, bytes: &[u8]) -> Result<Vec<String>, ModuleError> {
    let error = |source| ModuleError::NotAModule {
        name: name.to_owned(),
        source,
    };
    let file = object::File::parse(bytes).map_err(|source| error(Some(source)))?;
    let section = file
        .section_by_name(".modinfo")
        .ok_or_else(|| error(None))?;
    let data = section.data().map_err(|source| error(Some(source)))?;
    let value = |text: &str| text.strip_prefix("depends=").map(str::to_owned);
    let depends = data
        .split(|byte| *byte == 0)
        .filter_map(|text| std::str::from_utf8(text).ok().and_then(value))
        .next()
        .unwrap_or_default();
    Ok(depends
        .split(',')
        .filter(|name| !name.is_empty())
        .map(normalised)
        .collect())
}
