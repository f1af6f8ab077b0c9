//! ext4 file systems with a tree in them, made without root and without mounting anything.
//!
//! ```text
//!  tree as a tar stream ─stdin─> tar -x, into a directory ─> mke2fs -d ─> one sparse file
//! ```
//!
//! Where we are not root, both run in a user namespace in which the tree's owners are users of
//! the range that is ours (subuid(5)), so that the file system has the owners of the stream.
//! Debian's mke2fs reads a tar stream by itself only since 1.47.1.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::ChildStdin;

use crate::cache::{CacheError, io_error};
use crate::command::{CommandError, Invocation, Program};
use crate::overlay::MKFS_EXT4;
use crate::root_image::NEWUIDMAP;

const SHELL: Program = Program {
    name: "sh",
    package: "dash",
};
const UNSHARE: Program = Program {
    name: "unshare",
    package: "util-linux",
};

/// Unpacks the tree, makes the file system and removes the tree, in this order and in one
/// namespace: outside, the files may belong to nobody we can be.
const SCRIPT: &str = r#"
set -e
umask 022
trap 'exit 1' TERM INT HUP
trap 'rm -rf "$1"' EXIT
mkdir "$1"
tar --extract --file - --directory "$1" --numeric-owner --same-owner --same-permissions \
    --xattrs --xattrs-include='*' --delay-directory-restore --keep-directory-symlink
mkfs.ext4 -q -F -b 4096 -m 0 -L rootfs \
    -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -d "$1" "$2"
"#;

/// Size of the buffer before tar's pipe.
const PIPE_BYTES: usize = 256 * 1024;

/// Makes the ext4 file system `image` of `size_mib` MiB with the tree that `feed` writes as a tar
/// stream, with the help of the directory `work`.
pub(crate) fn write_ext4<E>(
    image: &Path,
    size_mib: u32,
    work: &Path,
    feed: impl FnOnce(&mut BufWriter<ChildStdin>) -> Result<(), E>,
) -> Result<(), E>
where
    E: From<CommandError> + From<CacheError>,
{
    let file = File::create(image).map_err(|source| io_error("create", image, source))?;
    file.set_len(u64::from(size_mib) << 20)
        .map_err(|source| io_error("size", image, source))?;
    MKFS_EXT4.find()?;
    let invocation = if rustix::process::geteuid().is_root() {
        Invocation::guarded(SHELL, work)?
    } else {
        NEWUIDMAP.find()?;
        Invocation::guarded(UNSHARE, work)?.args([
            "--map-root-user",
            "--map-auto",
            "--",
            SHELL.name,
        ])
    };
    invocation
        .named(MKFS_EXT4)
        .args(["-c", SCRIPT, SHELL.name])
        .args([work.join("tree").as_os_str(), image.as_os_str()])
        .feed_stdin()
        .run(&|_| {}, |running| {
            let stdin = running.stdin.take().expect("stdin was asked for");
            let mut output = BufWriter::with_capacity(PIPE_BYTES, stdin);
            feed(&mut output)?;
            let flushed = output.flush();
            flushed.map_err(|source| running.error("write to", source))?;
            Ok(())
        })
}
