//! Where SmolVM's programs and files are on this host, as plain paths.
//!
//! This crate reads neither the environment nor `$HOME`; whoever embeds it decides these paths.

use std::path::PathBuf;

/// The programs and directories that sandboxes are made with.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Directory that holds the sandboxes. Made with mode 0700 when missing.
    pub data_dir: PathBuf,
    /// Directory that holds kernels and images, which can all be made again.
    pub cache_dir: PathBuf,
    /// The `smolvm` program: it is started again as supervisor.
    pub smolvm: PathBuf,
    /// The `smolvm-vmm` program, which probes the host, is the monitor, and launches QEMU.
    pub vmm: PathBuf,
    /// The statically linked `smolvm-agent` program, which goes into the guest.
    pub agent: PathBuf,
    /// The `qemu-system-x86_64` program, where it is installed.
    pub qemu: Option<PathBuf>,
}
