//! Files of the guest that say how names become addresses, and the writing of such files.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use smolvm_protocol::message::GuestNetwork;

use super::NetworkError;
use crate::temporary_file::TemporaryFile;

/// First and last line of what the agent adds to a file that belongs to the image.
const BLOCK_BEGIN: &str = "# smolvm: begin";
const BLOCK_END: &str = "# smolvm: end";

/// Largest file that anything is added to, in bytes. Bundles of certificates have 250 KB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Permission bits of what everybody may read.
const READABLE: u32 = 0o644;

/// Writes the name servers and the known names of `network` below `root`.
pub(super) fn write_names(root: &Path, network: &GuestNetwork) -> Result<(), NetworkError> {
    if !network.dns.is_empty() {
        let mut text = String::from("# Written by smolvm for the network of this sandbox.\n");
        for server in &network.dns {
            text.push_str(&format!("nameserver {server}\n"));
        }
        let path = root.join("etc/resolv.conf");
        replace(&path, text.as_bytes()).map_err(|source| NetworkError::File { path, source })?;
    }
    let lines: String = network
        .hosts
        .iter()
        .map(|(address, name)| format!("{address}\t{name}\n"))
        .collect();
    set_block(&root.join("etc/hosts"), &lines)
}

/// Makes `content` the agent's part of the file at `path`, whose other lines stay.
pub(super) fn set_block(path: &Path, content: &str) -> Result<(), NetworkError> {
    let set = || -> io::Result<()> {
        // What a symbolic link points to is changed, never the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let existing = read(&target)?;
        let changed = with_block(&existing, content.as_bytes());
        if changed == existing {
            return Ok(());
        }
        replace(&target, &changed)
    };
    set().map_err(|source| NetworkError::File {
        path: path.to_owned(),
        source,
    })
}

/// Makes `path` a file with `content`, in place of whatever file or symbolic link it was.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    if is_file && read(path).is_ok_and(|existing| existing == content) {
        return Ok(());
    }
    let directory: PathBuf = path.parent().ok_or(io::ErrorKind::InvalidInput)?.into();
    fs::create_dir_all(&directory)?;
    let temporary = TemporaryFile::create(&directory)?;
    (&temporary.file).write_all(content)?;
    temporary
        .file
        .set_permissions(Permissions::from_mode(READABLE))?;
    temporary.take_place_of(path)
}

/// Returns what a file holds: nothing when it does not exist.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let opened = OpenOptions::new()
        .read(true)
        // Not waiting, should it be a FIFO.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// Returns `existing` with `content` as its marked block, at its end; without one when there is
/// no content.
fn with_block(existing: &[u8], content: &[u8]) -> Vec<u8> {
    let mut lines = without_block(existing);
    if content.is_empty() {
        return lines;
    }
    if lines.last().is_some_and(|last| *last != b'\n') {
        lines.push(b'\n');
    }
    for part in [
        BLOCK_BEGIN.as_bytes(),
        b"\n",
        content.trim_ascii_end(),
        b"\n",
        BLOCK_END.as_bytes(),
        b"\n",
    ] {
        lines.extend_from_slice(part);
    }
    lines
}

/// Returns `existing` without its marked block. A beginning without an end marks nothing.
fn without_block(existing: &[u8]) -> Vec<u8> {
    let mut outside = Vec::new();
    let mut inside = Vec::new();
    for line in existing.split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii_end();
        if text == BLOCK_BEGIN.as_bytes() || !inside.is_empty() {
            inside.extend_from_slice(line);
        } else {
            outside.extend_from_slice(line);
        }
        if text == BLOCK_END.as_bytes() {
            inside.clear();
        }
    }
    outside.extend(inside);
    outside
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::unix::fs::symlink;

    use smolvm_protocol::message::InterfaceAddress;

    use super::*;

    fn network(hosts: &[(IpAddr, &str)]) -> GuestNetwork {
        GuestNetwork {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            ipv4: InterfaceAddress {
                address: Ipv4Addr::new(10, 0, 0, 2),
                prefix_length: 24,
                gateway: Ipv4Addr::new(10, 0, 0, 1),
            },
            ipv6: None,
            dns: vec![Ipv4Addr::new(10, 0, 0, 1).into()],
            hosts: hosts
                .iter()
                .map(|(address, name)| (*address, (*name).to_owned()))
                .collect(),
        }
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).expect("readable")
    }

    #[test]
    fn symbolic_link_to_another_resolver_s_file_is_replaced_and_its_target_kept() {
        let root = tempfile::tempdir().expect("directory");
        let etc = root.path().join("etc");
        fs::create_dir(&etc).expect("made");
        let stub = root.path().join("stub-resolv.conf");
        fs::write(&stub, "nameserver 127.0.0.53\n").expect("written");
        symlink(&stub, etc.join("resolv.conf")).expect("linked");

        write_names(root.path(), &network(&[])).expect("written");

        assert!(text(&etc.join("resolv.conf")).ends_with("\nnameserver 10.0.0.1\n"));
        assert!(!etc.join("resolv.conf").is_symlink());
        assert_eq!(text(&stub), "nameserver 127.0.0.53\n");
    }

    #[test]
    fn hosts_of_an_earlier_network_give_way_and_the_image_s_own_stay() {
        let root = tempfile::tempdir().expect("directory");
        let hosts = root.path().join("etc/hosts");
        fs::create_dir(root.path().join("etc")).expect("made");
        fs::write(&hosts, "127.0.0.1 localhost").expect("written");
        let address = Ipv4Addr::new(10, 0, 0, 9).into();

        for name in ["earlier", "later"] {
            write_names(root.path(), &network(&[(address, name)])).expect("written");
        }

        assert_eq!(
            text(&hosts),
            "127.0.0.1 localhost\n# smolvm: begin\n10.0.0.9\tlater\n# smolvm: end\n"
        );
        write_names(root.path(), &network(&[])).expect("written");
        assert_eq!(text(&hosts), "127.0.0.1 localhost\n");
    }

    #[test]
    fn block_that_lost_its_end_takes_nothing_with_it() {
        let existing = b"before\n# smolvm: begin\nold\nafter\n";
        let changed = with_block(existing, b"new\n");
        let expected = [&existing[..], b"# smolvm: begin\nnew\n# smolvm: end\n"].concat();
        assert_eq!(changed, expected);
    }

    #[test]
    fn directory_in_the_way_of_a_file_is_reported_by_name() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("etc/resolv.conf");
        fs::create_dir_all(&path).expect("made");
        let error = write_names(root.path(), &network(&[])).expect_err("not writable");
        let message = error.to_string();
        assert!(
            message.contains("etc/resolv.conf cannot be written"),
            "{message}"
        );
        let left = fs::read_dir(root.path().join("etc")).expect("readable");
        assert_eq!(left.count(), 1, "a temporary file is left behind");
    }
}
