//! A tree with one of everything, written and read back entry by entry.
//!
//! The image is read by an independent implementation (the crate `backhand`); what that one does
//! not read, hard links and extended attributes, is looked at with unsquashfs.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use backhand::{FilesystemReader, InnerNode};
use tar::{Builder, EntryType, Header};

use super::bootstrap::{SQFSTAR, write_image};
use super::recipe::{AddedFile, Recipe};
use super::*;
use crate::progress::NoProgress;

/// Longer than the 100 bytes a tar header has for a name.
const LONG_NAME: &str = "srv/a-directory-with-a-rather-long-name/another-one-with-a-long-name/\
                         and-a-file-whose-name-alone-would-not-fit-into-a-tar-header-field-of-\
                         one-hundred-bytes.txt";

/// More entries than fit into one squashfs metadata block (8 KiB).
const MANY: usize = 2000;

/// Larger than a squashfs block (128 KiB) and not a multiple of it.
const LARGE_BYTES: usize = 300_001;

const RECIPE: Recipe = Recipe {
    name: "test",
    packages: &[],
    excluded_paths: &[],
    included_paths: &[],
    emptied: &["var/cache"],
    removed: &["etc/machine-id"],
    directories: &["workspace"],
    files: &[AddedFile {
        path: "etc/hostname",
        mode: 0o644,
        content: "sandbox\n",
    }],
    hooks: &[],
    needed_bytes: 0,
};

/// What an entry of the tree must be: type, mode, owner, group, and what it holds.
type Entry = (char, u16, u32, u32, String);

struct TreeBuilder {
    tar: Builder<Vec<u8>>,
    expected: BTreeMap<String, Entry>,
}

impl TreeBuilder {
    fn header(kind: EntryType, mode: u16, owner: (u32, u32)) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode.into());
        header.set_uid(owner.0.into());
        header.set_gid(owner.1.into());
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header
    }

    fn expect(&mut self, path: &str, kind: char, mode: u16, owner: (u32, u32), what: String) {
        self.expected
            .insert(path.to_owned(), (kind, mode, owner.0, owner.1, what));
    }

    fn directory(&mut self, path: &str, mode: u16, owner: (u32, u32)) {
        let mut header = Self::header(EntryType::Directory, mode, owner);
        self.tar
            .append_data(&mut header, format!("./{path}/"), io::empty())
            .unwrap();
        self.expect(path, 'd', mode, owner, String::new());
    }

    fn file(&mut self, path: &str, mode: u16, owner: (u32, u32), content: &[u8]) {
        let mut header = Self::header(EntryType::Regular, mode, owner);
        header.set_size(content.len() as u64);
        self.tar
            .append_data(&mut header, format!("./{path}"), content)
            .unwrap();
        self.expect(
            path,
            'f',
            mode,
            owner,
            Digest::of_bytes(content).to_string(),
        );
    }

    fn symlink(&mut self, path: &str, target: &str) {
        let mut header = Self::header(EntryType::Symlink, 0o777, (0, 0));
        self.tar
            .append_link(&mut header, format!("./{path}"), target)
            .unwrap();
        self.expect(path, 'l', 0o777, (0, 0), target.to_owned());
    }

    fn hard_link(&mut self, path: &str, target: &str) {
        let mut header = Self::header(EntryType::Link, 0o644, (0, 0));
        self.tar
            .append_link(&mut header, format!("./{path}"), format!("./{target}"))
            .unwrap();
        let same = self.expected[target].clone();
        self.expected.insert(path.to_owned(), same);
    }

    fn device(&mut self, path: &str, kind: EntryType, letter: char, numbers: (u32, u32)) {
        let mut header = Self::header(kind, 0o620, (0, 5));
        header.set_device_major(numbers.0).unwrap();
        header.set_device_minor(numbers.1).unwrap();
        self.tar
            .append_data(&mut header, format!("./{path}"), io::empty())
            .unwrap();
        let device = (numbers.0 << 8) | numbers.1;
        self.expect(path, letter, 0o620, (0, 5), device.to_string());
    }
}

/// One of everything a root file system can hold, and what the recipe drops.
fn tree() -> TreeBuilder {
    let mut tree = TreeBuilder {
        tar: Builder::new(Vec::new()),
        expected: BTreeMap::new(),
    };
    let mut root = TreeBuilder::header(EntryType::Directory, 0o755, (0, 0));
    tree.tar.append_data(&mut root, "./", io::empty()).unwrap();
    for directory in ["bin", "dev", "etc", "etc/apt", "many", "var", "var/cache"] {
        tree.directory(directory, 0o755, (0, 0));
    }
    tree.directory("tmp", 0o1777, (0, 0));
    tree.directory("home", 0o2750, (1000, 50));
    for directory in Path::new(LONG_NAME)
        .ancestors()
        .skip(1)
        .collect::<Vec<_>>()
        .iter()
        .rev()
    {
        if let Some(path) = directory.to_str().filter(|path| !path.is_empty()) {
            tree.directory(path, 0o700, (70_000, 70_001));
        }
    }
    tree.file(LONG_NAME, 0o600, (70_000, 70_001), b"long");
    tree.file("bin/su", 0o4755, (0, 0), b"set-uid");
    tree.file("bin/empty", 0o000, (0, 0), b"");
    let large: Vec<u8> = (0..LARGE_BYTES)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect();
    tree.file("bin/large", 0o644, (65_534, 65_534), &large);
    tree.hard_link("bin/linked", "bin/large");
    tree.symlink("lib", "usr/lib");
    tree.symlink("bin/dangling", &"../".repeat(60));
    tree.device("dev/null", EntryType::Char, 'c', (1, 3));
    tree.device("dev/disk", EntryType::Block, 'b', (254, 0));
    for index in 0..MANY {
        tree.file(
            &format!("many/{index}"),
            0o644,
            (0, 0),
            index.to_string().as_bytes(),
        );
    }
    tree.tar
        .append_pax_extensions([("SCHILY.xattr.security.capability", CAPABILITY)])
        .unwrap();
    tree.file("bin/ping", 0o755, (0, 0), b"capable");
    tree.file("etc/machine-id", 0o444, (0, 0), b"dropped");
    tree.file("etc/hostname", 0o600, (1, 1), b"replaced");
    tree.file("var/cache/package.deb", 0o644, (0, 0), b"dropped");
    tree
}

/// `cap_net_raw=ep`, revision 2 (Linux include/uapi/linux/capability.h, `struct vfs_cap_data`).
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The tree as the recipe turns it out.
fn expected_in_image(tree: &TreeBuilder) -> BTreeMap<String, Entry> {
    let mut expected = tree.expected.clone();
    expected.remove("etc/machine-id");
    expected.remove("var/cache/package.deb");
    let text = |text: &str| Digest::of_bytes(text.as_bytes()).to_string();
    expected.insert("workspace".to_owned(), ('d', 0o755, 0, 0, String::new()));
    expected.insert(
        "etc/hostname".to_owned(),
        ('f', 0o644, 0, 0, text("sandbox\n")),
    );
    expected.insert(
        "etc/apt/sources.list".to_owned(),
        ('f', 0o644, 0, 0, text("deb x\n")),
    );
    expected
}

fn entries_of(image: &Path) -> BTreeMap<String, Entry> {
    let file = io::BufReader::new(std::fs::File::open(image).unwrap());
    let filesystem = FilesystemReader::from_reader(file).unwrap();
    let mut entries = BTreeMap::new();
    for node in filesystem.files() {
        let (kind, what) = match &node.inner {
            InnerNode::File(file) => {
                let mut content = Vec::new();
                filesystem
                    .file(file)
                    .reader()
                    .read_to_end(&mut content)
                    .unwrap();
                ('f', Digest::of_bytes(&content).to_string())
            }
            InnerNode::Symlink(link) => ('l', link.link.to_str().unwrap().to_owned()),
            InnerNode::Dir(_) => ('d', String::new()),
            InnerNode::CharacterDevice(device) => ('c', device.device_number.to_string()),
            InnerNode::BlockDevice(device) => ('b', device.device_number.to_string()),
            InnerNode::NamedPipe => ('p', String::new()),
            InnerNode::Socket => ('s', String::new()),
        };
        let path = node
            .fullpath
            .strip_prefix("/")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let header = node.header;
        entries.insert(
            path,
            (kind, header.permissions, header.uid, header.gid, what),
        );
    }
    entries
}

/// Writes the tree into an image, or says why it cannot.
fn image_of(tree: TreeBuilder, directory: &Path) -> Option<PathBuf> {
    if let Err(error) = SQFSTAR.find() {
        println!("skipped: {error}");
        return None;
    }
    let tar = tree.tar.into_inner().unwrap();
    let image = directory.join("root.squashfs");
    write_image(&RECIPE, "deb x\n", tar.as_slice(), &image, &NoProgress).unwrap();
    Some(image)
}

#[test]
fn an_image_has_exactly_the_entries_of_its_tree() {
    let directory = tempfile::tempdir().unwrap();
    let tree = tree();
    let expected = expected_in_image(&tree);
    let Some(image) = image_of(tree, directory.path()) else {
        return;
    };

    let mut found = entries_of(&image);

    assert_eq!(
        found.remove(""),
        Some(('d', 0o755, 0, 0, String::new())),
        "the root directory"
    );
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    assert_eq!(found, expected);
}

#[test]
fn hard_links_and_extended_attributes_survive() {
    let directory = tempfile::tempdir().unwrap();
    let Some(image) = image_of(tree(), directory.path()) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can unpack security.capability");
        return;
    }
    let target = directory.path().join("tree");
    let unpacked = Command::new("unsquashfs")
        .args(["-q", "-n", "-d"])
        .args([&target, &image])
        .status();
    assert!(unpacked.unwrap().success());

    let inode = |name: &str| {
        let metadata = std::fs::metadata(target.join(name)).unwrap();
        std::os::unix::fs::MetadataExt::ino(&metadata)
    };
    assert_eq!(inode("bin/large"), inode("bin/linked"));
    let mut capability = [0; 64];
    let path = target.join("bin/ping");
    let length = rustix::fs::getxattr(&path, "security.capability", &mut capability).unwrap();
    assert_eq!(&capability[..length], CAPABILITY);
}

#[test]
fn a_link_to_a_dropped_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut tree = tree();
    tree.hard_link("etc/linked-id", "etc/machine-id");
    let tar = tree.tar.into_inner().unwrap();
    let image = directory.path().join("root.squashfs");
    if SQFSTAR.find().is_err() {
        println!("skipped: sqfstar is not installed");
        return;
    }
    let error = write_image(&RECIPE, "", tar.as_slice(), &image, &NoProgress).unwrap_err();
    let expected = matches!(
        error,
        RootImageError::Rewrite(RewriteError::LinkToDropped { .. })
    );
    assert!(expected, "{error:?}");
}

#[test]
fn a_tree_is_heard_out() {
    let mut tar = tree().tar.into_inner().unwrap();
    // The record of tar(1), of 20 blocks of 512 bytes.
    tar.resize(tar.len().next_multiple_of(10_240) + 10_240, 0);
    let mut rest = tar.as_slice();
    rewrite::rewrite(&mut rest, io::sink(), &RECIPE, &[], &NoProgress).unwrap();
    assert!(rest.is_empty(), "{} bytes were not read", rest.len());
}

#[test]
fn a_truncated_tree_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut tar = tree().tar.into_inner().unwrap();
    tar.truncate(100_000);
    let image = directory.path().join("root.squashfs");
    if SQFSTAR.find().is_err() {
        println!("skipped: sqfstar is not installed");
        return;
    }
    let error = write_image(&RECIPE, "", tar.as_slice(), &image, &NoProgress).unwrap_err();
    // Whoever notices first: sqfstar gets half a file and says so too.
    let expected = matches!(
        error,
        RootImageError::Rewrite(_) | RootImageError::Command(_)
    );
    assert!(expected, "{error:?}");
}

#[test]
fn an_unknown_image_names_the_known_ones() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let error = prepared_root_image(&cache, &"plan9".parse().unwrap(), &NoProgress).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no image named plan9 (there are: debian, browser)"
    );
}

#[test]
fn image_names_cannot_leave_the_cache() {
    for name in ["", "../x", "Debian", "a.b", "a/b"] {
        assert!(name.parse::<ImageName>().is_err(), "{name}");
    }
}
