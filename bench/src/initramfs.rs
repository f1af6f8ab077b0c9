//! What the plain machines boot from: files of Debian packages, packed into an initramfs.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Files on their way into an initramfs, with busybox among them as `/bin/busybox`.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    busybox: PathBuf,
    names: Vec<String>,
}

impl Tree {
    /// Begins a tree in `root`, which is made.
    pub(crate) fn new(root: PathBuf, busybox: &Path) -> Result<Self, Box<dyn Error>> {
        let mut tree = Self {
            root,
            busybox: busybox.to_owned(),
            names: Vec::new(),
        };
        fs::create_dir_all(&tree.root)?;
        tree.directory("bin")?;
        tree.directory("dev")?;
        tree.copy(busybox, "bin/busybox")?;
        Ok(tree)
    }

    /// Adds a directory.
    pub(crate) fn directory(&mut self, name: &str) -> Result<(), Box<dyn Error>> {
        fs::create_dir(self.root.join(name))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Adds a copy of a file.
    pub(crate) fn copy(&mut self, file: &Path, name: &str) -> Result<(), Box<dyn Error>> {
        fs::copy(file, self.root.join(name))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Packs the tree with `script` as the first program.
    pub(crate) fn pack(mut self, script: &str, into: &Path) -> Result<(), Box<dyn Error>> {
        let init = self.root.join("init");
        fs::write(&init, script)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        self.names.push("init".to_owned());
        let names = into.with_extension("names");
        fs::write(&names, self.names.join("\n") + "\n")?;
        run(Command::new(&self.busybox)
            .args(["cpio", "-o", "-H", "newc"])
            .current_dir(&self.root)
            .stdin(fs::File::open(&names)?)
            .stdout(fs::File::create(into)?))
    }
}

/// Downloads a Debian package and unpacks it.
pub(crate) fn unpack_package(package: &str, into: &Path) -> Result<(), Box<dyn Error>> {
    let downloads = into.join("downloads").join(package);
    fs::create_dir_all(&downloads)?;
    run(Command::new("apt-get")
        .args(["-q", "download", package])
        .stdout(Stdio::null())
        .current_dir(&downloads))?;
    for file in fs::read_dir(&downloads)?.flatten() {
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(file.path())
            .arg(into))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.stderr(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}").into())
    }
}
