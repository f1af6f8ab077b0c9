//! The baseline: a plain QEMU microvm whose busybox prints a line.

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::initramfs::{Tree, unpack_package};
use crate::subject::Subject;

/// What the guest's first process prints.
const LINE: &str = "SMOLVM-BASELINE-READY";

/// Which kernel file the baseline boots; both are the same kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernel {
    /// The compressed file of the Debian package, with only a console on its command line.
    AsPackaged,
    /// The file and command line that SmolVM boots.
    AsSmolvmBootsIt,
}

/// A plain QEMU with all it boots from.
#[derive(Debug)]
pub(crate) struct Baseline {
    _directory: tempfile::TempDir,
    busybox: PathBuf,
    qemu: PathBuf,
    accelerator: &'static str,
    packaged_kernel: PathBuf,
    smolvm_kernel: PathBuf,
    initramfs: PathBuf,
    clock: String,
}

impl Baseline {
    /// Fetches the kernel's and busybox's packages and makes the initramfs.
    pub(crate) fn prepare(subject: &Subject) -> Result<Self, Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let root = directory.path();
        unpack_package("busybox-static", root)?;
        // The package's name and version, which apt wants with an equals sign between them.
        unpack_package(&subject.kernel_package().replace(' ', "="), root)?;
        let packaged_kernel = fs::read_dir(root.join("boot"))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().contains("vmlinuz"))
            .ok_or("the kernel's package has no vmlinuz")?;
        let initramfs = root.join("initramfs");
        let script = format!(
            "#!/bin/busybox sh\necho {LINE} > /dev/console\nexec /bin/busybox sleep 1000\n"
        );
        let busybox = root.join("bin/busybox");
        Tree::new(root.join("tree"), &busybox)?.pack(&script, &initramfs)?;
        Ok(Self {
            busybox,
            qemu: subject.qemu().to_owned(),
            accelerator: if subject.is_kvm() { "kvm" } else { "tcg" },
            packaged_kernel,
            smolvm_kernel: subject.kernel().to_owned(),
            initramfs,
            // Without it one boot in five hangs under software emulation; see
            // docs/decisions/ on the guest's clock.
            clock: format!("tsc_early_khz={}", subject.tsc_khz()),
            _directory: directory,
        })
    }

    /// Returns a static busybox.
    pub(crate) fn busybox(&self) -> &Path {
        &self.busybox
    }

    /// Boots once and returns the time to the line.
    pub(crate) fn boot(&self, kernel: Kernel) -> Result<Duration, Box<dyn Error>> {
        let (file, parameters) = match kernel {
            Kernel::AsPackaged => (
                &self.packaged_kernel,
                format!("console=ttyS0 {}", self.clock),
            ),
            Kernel::AsSmolvmBootsIt => (
                &self.smolvm_kernel,
                format!(
                    "console=ttyS0 quiet pci=off cryptomgr.notests random.trust_cpu=on {}",
                    self.clock
                ),
            ),
        };
        let begun = Instant::now();
        let mut qemu = Command::new(&self.qemu)
            .args([
                "-M",
                "microvm",
                "-accel",
                self.accelerator,
                "-m",
                "512",
                "-nodefaults",
            ])
            .args([
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
                "-serial",
                "stdio",
            ])
            .arg("-kernel")
            .arg(file)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", &parameters])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = qemu.stdout.take().ok_or("no output")?;
        let elapsed = BufReader::new(output)
            .split(b'\n')
            .map_while(Result::ok)
            .find(|line| {
                line.windows(LINE.len())
                    .any(|window| window == LINE.as_bytes())
            })
            .map(|_| begun.elapsed());
        qemu.kill()?;
        qemu.wait()?;
        elapsed.ok_or_else(|| "the baseline's guest ended without its line".into())
    }
}
