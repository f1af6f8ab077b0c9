//! The tree of an image: the minirootfs, the packages over it, and what their scripts would do.

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use tar::Archive;

use super::package::TrustedKey;
use super::{AlpineError, LoginFiles, Package};
use crate::root_image::RewriteError;
use crate::root_image::rewrite::{ExtraFile, Tree, relative};

/// Most bytes that the minirootfs may unpack to; Alpine's has 10 MB.
const MAX_UNPACKED_BYTES: u64 = 512 << 20;

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";
const SHADOW: &str = "etc/shadow";
const WORLD: &str = "etc/apk/world";
const KEYS: &str = "etc/apk/keys";

/// Where apk's database of installed packages ends, wherever the release keeps it.
const INSTALLED: &str = "lib/apk/db/installed";

/// Where Alpine's sshd has its settings.
const SSHD_CONFIG: &str = "etc/ssh/sshd_config";

/// The user that sshd drops its rights to, as Alpine's package makes it (main/openssh,
/// openssh-server.pre-install).
const SSHD_USER: &str = "sshd:x:22:22:sshd:/dev/null:/sbin/nologin";
const SSHD_GROUP: &str = "sshd:x:22:";
const SSHD_SHADOW: &str = "sshd:!:0:0:99999:7:::";

/// The release, unpacked in memory, with the files that are changed.
pub(super) struct Minirootfs {
    tar: Vec<u8>,
    /// The keys it trusts.
    pub(super) keys: Vec<TrustedKey>,
    /// The packages that are in it, as records.
    pub(super) installed: String,
    installed_path: Option<PathBuf>,
    passwd: String,
    group: String,
    shadow: String,
    world: String,
}

impl Minirootfs {
    /// Reads the compressed release in `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, AlpineError> {
        let refuse = |reason| AlpineError::Content {
            what: "the minirootfs".to_owned(),
            reason,
        };
        let mut tar = Vec::new();
        let unpacked = GzDecoder::new(bytes)
            .take(MAX_UNPACKED_BYTES)
            .read_to_end(&mut tar);
        unpacked.map_err(|_| refuse("it cannot be decompressed"))?;
        let mut found = Self {
            tar: Vec::new(),
            keys: Vec::new(),
            installed: String::new(),
            installed_path: None,
            passwd: String::new(),
            group: String::new(),
            shadow: String::new(),
            world: String::new(),
        };
        for entry in Archive::new(tar.as_slice())
            .entries()
            .map_err(RewriteError::Read)?
        {
            let mut entry = entry.map_err(RewriteError::Read)?;
            let path = relative(&entry.path().map_err(RewriteError::Read)?);
            if !entry.header().entry_type().is_file() || !is_of_interest(&path) {
                continue;
            }
            let mut text = String::new();
            let read = entry.read_to_string(&mut text);
            read.map_err(|_| refuse("a file of settings in it is not text"))?;
            found.take(path, text);
        }
        found.tar = tar;
        Ok(found)
    }

    fn take(&mut self, path: PathBuf, text: String) {
        match path.to_str() {
            Some(PASSWD) => self.passwd = text,
            Some(GROUP) => self.group = text,
            Some(SHADOW) => self.shadow = text,
            Some(WORLD) => self.world = text,
            _ if path.ends_with(INSTALLED) => {
                self.installed = text;
                self.installed_path = Some(path);
            }
            _ => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.keys.push((name.into_owned(), text));
            }
        }
    }

    /// Writes the tree as a tar stream.
    pub(super) fn write_with(
        &self,
        packages: &[Package<'_>],
        wanted: &[&str],
        login: &LoginFiles,
        output: &mut impl Write,
    ) -> Result<(), AlpineError> {
        let mut tree = Tree::new(output);
        tree.copy_all(&self.tar)?;
        let mut installed = self.installed.trim_end().to_owned();
        for package in packages {
            tree.copy_all(&package.tar)?;
            installed.push_str("\n\n");
            installed.push_str(&database_entry(package)?);
        }
        installed.push_str("\n\n");
        let passwd = with_line(&self.passwd, SSHD_USER);
        let group = with_line(&self.group, SSHD_GROUP);
        let shadow = with_root(&with_line(&self.shadow, SSHD_SHADOW), login);
        let wanted = wanted
            .iter()
            .fold(self.world.clone(), |world, name| with_line(&world, name));
        let file = |path, mode, content| ExtraFile {
            path,
            mode,
            content: Some(content),
        };
        let mut extra = vec![
            file(PASSWD, 0o644, passwd.as_str()),
            file(GROUP, 0o644, &group),
            file(SHADOW, 0o640, &shadow),
            file(WORLD, 0o644, &wanted),
        ];
        if let Some(path) = self.installed_path.as_deref().and_then(Path::to_str) {
            extra.push(file(path, 0o644, &installed));
        }
        extra.extend(login.extra(SSHD_CONFIG));
        for file in &extra {
            tree.add_extra(file)?;
        }
        tree.finish()?;
        Ok(())
    }
}

fn is_of_interest(path: &Path) -> bool {
    [PASSWD, GROUP, SHADOW, WORLD]
        .iter()
        .any(|known| path == Path::new(known))
        || path.ends_with(INSTALLED)
        || path.parent() == Some(Path::new(KEYS))
}

/// Returns `text` with `line`, unless a line of it begins with the same name.
fn with_line(text: &str, line: &str) -> String {
    let name = line.split(':').next().unwrap_or(line);
    let is_there = |other: &str| other.split(':').next() == Some(name);
    let mut text = text.to_owned();
    if !text.lines().any(is_there) {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Returns `shadow` with root's password; without one it is a star, with which keys still get in
/// (an exclamation mark would lock them out, too: sshd(8), "LOGIN PROCESS").
fn with_root(shadow: &str, login: &LoginFiles) -> String {
    let hash = login.password_hash.as_deref().unwrap_or("*");
    let others = shadow.lines().filter(|line| !line.starts_with("root:"));
    let mut text = format!("root:{hash}::0:::::\n");
    for line in others {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Returns what apk's database says of an installed package: its record, and its files.
fn database_entry(package: &Package<'_>) -> Result<String, AlpineError> {
    let mut text = package.record.text.clone();
    let mut directory = None;
    for entry in Archive::new(package.tar.as_slice())
        .entries()
        .map_err(RewriteError::Read)?
    {
        let entry = entry.map_err(RewriteError::Read)?;
        let path = relative(&entry.path().map_err(RewriteError::Read)?);
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let parent = path.parent().map(Path::to_owned).unwrap_or_default();
        if directory.as_ref() != Some(&parent) {
            text.push_str(&format!("\nF:{}", parent.display()));
            directory = Some(parent);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("\nR:{name}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh_image::Login;

    #[test]
    fn a_line_is_added_once() {
        let once = with_line("root:x:0:0::/root:/bin/sh", SSHD_USER);
        assert_eq!(once.lines().count(), 2);
        assert_eq!(with_line(&once, SSHD_USER), once);
    }

    #[test]
    fn root_has_the_password_or_none() {
        let shadow = "root:!::0:::::\nbin:!::0:::::\n";
        let login = Login {
            password: Some("word".to_owned()),
            key: None,
        };
        let with = with_root(shadow, &login.files().unwrap());
        assert!(
            with.starts_with("root:$6$") && with.ends_with("bin:!::0:::::\n"),
            "{with}"
        );
        let without = with_root(shadow, &Login::default().files().unwrap());
        assert!(without.starts_with("root:*::0:::::\n"), "{without}");
    }
}
