//! Small root file systems for guests, made of programs of this host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that scenarios use in such a guest.
const PROGRAMS: &[&str] = &[
    "sh", "cat", "dd", "id", "ls", "mkdir", "mount", "sync", "uname",
];

/// Makes a tree with a shell, a few programs and their libraries in `directory`.
///
/// # Panics
///
/// When the host has not got them.
pub fn small_tree(directory: &Path) {
    for path in [
        "bin", "etc", "root", "tmp", "lib64", "proc", "sys", "dev", "run", "mnt",
    ] {
        fs::create_dir_all(directory.join(path)).expect("directory");
    }
    for name in PROGRAMS {
        let program = ["/usr/bin", "/bin"]
            .iter()
            .map(|parent| Path::new(parent).join(name))
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("the host has no {name}"));
        copy(&program, &directory.join("bin").join(name));
        for library in libraries(&program) {
            let target = directory.join(library.strip_prefix("/").expect("absolute"));
            copy(&library, &target);
        }
    }
    fs::write(
        directory.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\n",
    )
    .expect("write");
    fs::write(directory.join("etc/marker"), "a root of the user's own\n").expect("write");
}

/// Makes the ext4 file system `image` of `size_mib` MiB with the small tree.
///
/// # Panics
///
/// When mke2fs fails.
pub fn small_ext4(image: &Path, size_mib: u32) {
    let tree = tempfile::tempdir().expect("directory");
    small_tree(tree.path());
    let status = Command::new("/usr/sbin/mke2fs")
        .args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
        .args([tree.path(), image])
        .arg(format!("{size_mib}M"))
        .status();
    assert!(status.expect("mke2fs is installed").success());
}

fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let listed = Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8(listed.stdout).expect("text");
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a parent")).expect("directory");
    fs::copy(from, to).expect("copied");
}
