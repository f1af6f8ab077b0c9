//! The file operations, on temporary directories.

mod host;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use host::{Host, bytes, refusal_code};
use serde_bytes::ByteBuf;
use smolvm_protocol::Frame;
use smolvm_protocol::message::{Event, FileKind, RefusalCode, Request, WriteFile};
use tempfile::TempDir;

fn temporary() -> TempDir {
    tempfile::tempdir().expect("temporary directory")
}

fn path_bytes(path: &Path) -> ByteBuf {
    ByteBuf::from(path.as_os_str().as_bytes())
}

fn write(path: &Path, mode: u32, parents: bool) -> Request {
    Request::WriteFile(WriteFile {
        path: path_bytes(path),
        mode,
        parents,
    })
}

fn write_tree(path: &Path) -> Request {
    Request::WriteTree {
        path: path_bytes(path),
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("exists").mode() & 0o7777
}

#[tokio::test]
async fn file_survives_the_round_trip() {
    let directory = temporary();
    let path = directory.path().join("file");
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let host = Host::with_agent();
    assert_eq!(
        host.send_input(&write(&path, 0o640, false), &content).await,
        Event::Done
    );
    let name = path.to_str().expect("text");
    let (attributes, read) = host.read_file(name).await.expect("readable");
    assert_eq!(attributes.size, content.len() as u64);
    assert_eq!(attributes.mode, 0o640);
    assert!(read == content);
}

#[tokio::test]
async fn empty_file_can_be_written_and_read() {
    let directory = temporary();
    let path = directory.path().join("empty");
    let host = Host::with_agent();
    host.send_input(&write(&path, 0o644, false), b"").await;
    let (attributes, read) = host
        .read_file(path.to_str().expect("text"))
        .await
        .expect("readable");
    assert_eq!((attributes.size, read.len()), (0, 0));
}

#[tokio::test]
async fn existing_file_keeps_mode_and_owner() {
    let directory = temporary();
    let path = directory.path().join("file");
    fs::write(&path, "old").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).expect("permitted");
    std::os::unix::fs::chown(&path, Some(12), Some(34)).expect("owned");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).expect("permitted");
    let host = Host::with_agent();
    host.send_input(&write(&path, 0o600, false), b"new").await;
    let metadata = fs::metadata(&path).expect("exists");
    assert_eq!(fs::read(&path).expect("readable"), b"new");
    assert_eq!(
        (mode_of(&path), metadata.uid(), metadata.gid()),
        (0o4711, 12, 34)
    );
}

#[tokio::test]
async fn write_through_a_symbolic_link_keeps_the_link() {
    let directory = temporary();
    let target = directory.path().join("target");
    let link = directory.path().join("link");
    fs::write(&target, "old").expect("written");
    symlink(&target, &link).expect("linked");
    let host = Host::with_agent();
    host.send_input(&write(&link, 0o600, false), b"new").await;
    assert_eq!(fs::read(&target).expect("readable"), b"new");
    assert_eq!(fs::read_link(&link).expect("still a link"), target);
}

#[tokio::test]
async fn missing_parents_are_made_only_when_asked_for() {
    let directory = temporary();
    let path = directory.path().join("a/b/file");
    let host = Host::with_agent();
    let refused = host.send_input(&write(&path, 0o600, false), b"x").await;
    assert_eq!(refusal_code(&refused), RefusalCode::NotFound);
    let done = host.send_input(&write(&path, 0o600, true), b"x").await;
    assert_eq!(done, Event::Done);
    assert_eq!(mode_of(&directory.path().join("a/b")), 0o755);
}

#[tokio::test]
async fn interrupted_write_leaves_the_old_file_and_nothing_else() {
    let directory = temporary();
    let path = directory.path().join("file");
    fs::write(&path, "old").expect("written");
    let host = Host::with_agent();
    let mut operation = host.start(&write(&path, 0o600, false)).await;
    operation
        .send(Frame::data(
            smolvm_protocol::FrameKind::Input,
            "half of the".into(),
        ))
        .await;
    operation.send_message(&"not an input frame").await;
    assert_eq!(
        refusal_code(&operation.event().await),
        RefusalCode::Malformed
    );
    // The temporary file is removed by the work that ends after the refusal was sent.
    until(|| fs::read_dir(directory.path()).expect("readable").count() == 1).await;
    assert_eq!(fs::read(&path).expect("readable"), b"old");
}

/// Lets other tasks and threads run until `is_true`.
async fn until(is_true: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !is_true() {
        assert!(std::time::Instant::now() < deadline, "it never became true");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn full_disk_is_no_space_and_leaves_nothing_behind() {
    // /dev/full is a device and refused before it is written to, so a small tmpfs is needed.
    let directory = temporary();
    let mounted = rustix::mount::mount(
        "tmpfs",
        directory.path(),
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        c"size=64k",
    );
    if mounted.is_err() {
        eprintln!("skipped: mounting a tmpfs needs privileges");
        return;
    }
    let host = Host::with_agent();
    let path = directory.path().join("file");
    let answer = host
        .send_input(&write(&path, 0o600, false), &vec![7; 1_000_000])
        .await;
    let left = fs::read_dir(directory.path()).expect("readable").count();
    rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH)
        .expect("unmounted");
    assert_eq!(refusal_code(&answer), RefusalCode::NoSpace);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_neither_read_nor_replaced() {
    let directory = temporary();
    let fifo = directory.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("made");
    let host = Host::with_agent();
    let read = host.read_file(fifo.to_str().expect("text")).await;
    let written = host.send_input(&write(&fifo, 0o600, false), b"x").await;
    let directory_read = host.read_file("/usr").await;
    assert_eq!(read.expect_err("a FIFO").code, RefusalCode::InvalidInput);
    assert_eq!(refusal_code(&written), RefusalCode::InvalidInput);
    assert_eq!(
        directory_read.expect_err("a directory").code,
        RefusalCode::IsADirectory
    );
}

#[tokio::test]
async fn files_of_the_kernel_are_read_to_their_end() {
    let host = Host::with_agent();
    let (attributes, content) = host.read_file("/proc/version").await.expect("readable");
    assert_eq!(attributes.size, 0);
    assert!(content.starts_with(b"Linux version"));
}

#[tokio::test]
async fn relative_path_and_nul_byte_are_invalid() {
    let host = Host::with_agent();
    let relative = host.read_file("etc/passwd").await.expect_err("relative");
    let nul = host.read_file("/etc/\0passwd").await.expect_err("NUL");
    assert_eq!(relative.code, RefusalCode::InvalidInput);
    assert_eq!(nul.code, RefusalCode::InvalidInput);
}

#[tokio::test]
async fn stat_describes_a_link_or_what_it_points_to() {
    let directory = temporary();
    let file = directory.path().join("file");
    let link = directory.path().join("link");
    fs::write(&file, "12345").expect("written");
    symlink("file", &link).expect("linked");
    let host = Host::with_agent();
    let stat = |follow| Request::Stat {
        path: path_bytes(&link),
        follow,
    };
    let (Event::Attributes(itself), Event::Attributes(target)) =
        (host.ask(&stat(false)).await, host.ask(&stat(true)).await)
    else {
        panic!("no attributes");
    };
    assert_eq!(itself.kind, FileKind::Symlink);
    assert_eq!(itself.target, Some(bytes("file")));
    assert_eq!((target.kind, target.size), (FileKind::File, 5));
    let modified = fs::metadata(&file).expect("exists");
    let expected = modified.mtime() * 1_000_000_000 + modified.mtime_nsec();
    assert_eq!(target.modified_unix_ns, expected);
}

#[tokio::test]
async fn list_names_every_entry_once() {
    let directory = temporary();
    fs::write(directory.path().join("file"), "x").expect("written");
    fs::create_dir(directory.path().join("sub")).expect("made");
    symlink("nowhere", directory.path().join("link")).expect("linked");
    let host = Host::with_agent();
    let mut operation = host
        .start(&Request::List {
            path: path_bytes(directory.path()),
        })
        .await;
    let mut entries = BTreeMap::new();
    while let Event::Entry { name, attributes } = operation.event().await {
        entries.insert(name.into_vec(), attributes.kind);
    }
    let expected = BTreeMap::from([
        (b"file".to_vec(), FileKind::File),
        (b"link".to_vec(), FileKind::Symlink),
        (b"sub".to_vec(), FileKind::Directory),
    ]);
    assert_eq!(entries, expected);
}

#[tokio::test]
async fn list_of_a_file_is_not_a_directory() {
    let host = Host::with_agent();
    let answer = host
        .ask(&Request::List {
            path: bytes("/etc/passwd"),
        })
        .await;
    assert_eq!(refusal_code(&answer), RefusalCode::NotADirectory);
}

#[tokio::test]
async fn directory_gets_exactly_its_mode() {
    let directory = temporary();
    let path = directory.path().join("new");
    let host = Host::with_agent();
    let make = |parents| Request::MakeDirectory {
        path: path_bytes(&path),
        mode: 0o2777,
        parents,
    };
    assert_eq!(host.ask(&make(false)).await, Event::Done);
    assert_eq!(mode_of(&path), 0o2777);
    let again = host.ask(&make(false)).await;
    assert_eq!(refusal_code(&again), RefusalCode::AlreadyExists);
    assert_eq!(host.ask(&make(true)).await, Event::Done);
}

#[tokio::test]
async fn remove_takes_a_link_and_leaves_its_target() {
    let directory = temporary();
    let kept = directory.path().join("kept");
    let link = directory.path().join("link");
    fs::create_dir(&kept).expect("made");
    fs::write(kept.join("file"), "x").expect("written");
    symlink(&kept, &link).expect("linked");
    let host = Host::with_agent();
    let answer = host
        .ask(&Request::Remove {
            path: path_bytes(&link),
            recursive: true,
        })
        .await;
    assert_eq!(answer, Event::Done);
    assert!(fs::symlink_metadata(&link).is_err());
    assert!(kept.join("file").exists());
}

#[tokio::test]
async fn directory_with_content_goes_only_recursively() {
    let directory = temporary();
    let full = directory.path().join("full");
    fs::create_dir_all(full.join("sub")).expect("made");
    let host = Host::with_agent();
    let remove = |recursive| Request::Remove {
        path: path_bytes(&full),
        recursive,
    };
    let refused = host.ask(&remove(false)).await;
    assert_eq!(refusal_code(&refused), RefusalCode::NotEmpty);
    assert_eq!(host.ask(&remove(true)).await, Event::Done);
    assert!(!full.exists());
}

#[tokio::test]
async fn tree_survives_the_round_trip() {
    let directory = temporary();
    let source = directory.path().join("source");
    let long = "n".repeat(150);
    fs::create_dir_all(source.join("sub")).expect("made");
    fs::write(source.join("sub/program"), vec![5; 200_000]).expect("written");
    fs::write(source.join(&long), "long name").expect("written");
    fs::set_permissions(
        source.join("sub/program"),
        fs::Permissions::from_mode(0o4755),
    )
    .expect("permitted");
    fs::set_permissions(source.join("sub"), fs::Permissions::from_mode(0o700)).expect("permitted");
    symlink("../elsewhere", source.join("link")).expect("linked");
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).expect("bound");
    let host = Host::with_agent();
    let mut operation = host
        .start(&Request::ReadTree {
            path: path_bytes(&source),
        })
        .await;
    let archive = operation.content().await;
    let destination = directory.path().join("destination");
    let answer = host.send_input(&write_tree(&destination), &archive).await;
    assert_eq!(answer, Event::Done);
    let copy = destination.join("source");
    assert_eq!(
        fs::read(copy.join("sub/program")).expect("read"),
        vec![5; 200_000]
    );
    assert_eq!(fs::read(copy.join(&long)).expect("read"), b"long name");
    assert_eq!(mode_of(&copy.join("sub/program")), 0o4755);
    assert_eq!(mode_of(&copy.join("sub")), 0o700);
    assert_eq!(
        fs::read_link(copy.join("link")).expect("a link"),
        Path::new("../elsewhere")
    );
    assert!(!copy.join("socket").exists());
    let times = |path: &Path| fs::metadata(path).expect("exists").mtime();
    assert_eq!(times(&copy.join("sub")), times(&source.join("sub")));
}

#[tokio::test]
async fn tree_of_a_single_file_holds_that_file() {
    let host = Host::with_agent();
    let mut operation = host
        .start(&Request::ReadTree {
            path: bytes("/etc/hostname"),
        })
        .await;
    let content = operation.content().await;
    let mut archive = tar::Archive::new(&content[..]);
    let mut entry = archive
        .entries()
        .expect("an archive")
        .next()
        .expect("an entry")
        .expect("readable");
    let mut text = Vec::new();
    entry.read_to_end(&mut text).expect("readable");
    assert_eq!(&*entry.path_bytes(), b"hostname");
    assert_eq!(text, fs::read("/etc/hostname").expect("readable"));
}

#[tokio::test]
async fn missing_tree_is_not_found() {
    let host = Host::with_agent();
    let answer = host
        .ask(&Request::ReadTree {
            path: bytes("/does/not/exist"),
        })
        .await;
    assert_eq!(refusal_code(&answer), RefusalCode::NotFound);
}

/// Returns an archive of one file whose name is taken as it is.
fn archive_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, content).expect("appended");
    archive.into_inner().expect("complete")
}

#[tokio::test]
async fn name_that_climbs_out_of_the_destination_is_refused() {
    let directory = temporary();
    let destination = directory.path().join("destination");
    let host = Host::with_agent();
    let archive = archive_of("../escaped", b"x");
    let answer = host.send_input(&write_tree(&destination), &archive).await;
    assert_eq!(refusal_code(&answer), RefusalCode::InvalidInput);
    assert!(!directory.path().join("escaped").exists());
}

#[tokio::test]
async fn absolute_name_lands_inside_the_destination() {
    let directory = temporary();
    let destination = directory.path().join("destination");
    let host = Host::with_agent();
    let archive = archive_of("/etc/inside", b"x");
    let answer = host.send_input(&write_tree(&destination), &archive).await;
    assert_eq!(answer, Event::Done);
    assert!(destination.join("etc/inside").exists());
}

#[tokio::test]
async fn link_that_leads_out_is_not_written_through() {
    let directory = temporary();
    let outside = directory.path().join("outside");
    let destination = directory.path().join("destination");
    fs::create_dir(&outside).expect("made");
    fs::create_dir(&destination).expect("made");
    symlink(&outside, destination.join("link")).expect("linked");
    let host = Host::with_agent();
    let archive = archive_of("link/escaped", b"x");
    let answer = host.send_input(&write_tree(&destination), &archive).await;
    assert_eq!(refusal_code(&answer), RefusalCode::InvalidInput);
    assert!(!outside.join("escaped").exists());
}

#[tokio::test]
async fn file_in_place_of_a_link_replaces_the_link_only() {
    let directory = temporary();
    let outside = directory.path().join("outside");
    let destination = directory.path().join("destination");
    fs::write(&outside, "kept").expect("written");
    fs::create_dir(&destination).expect("made");
    symlink(&outside, destination.join("name")).expect("linked");
    let host = Host::with_agent();
    let archive = archive_of("name", b"new");
    let answer = host.send_input(&write_tree(&destination), &archive).await;
    assert_eq!(answer, Event::Done);
    assert_eq!(fs::read(&outside).expect("readable"), b"kept");
    assert_eq!(fs::read(destination.join("name")).expect("read"), b"new");
}

#[tokio::test]
async fn what_is_not_an_archive_is_invalid() {
    let directory = temporary();
    let host = Host::with_agent();
    let answer = host
        .send_input(&write_tree(directory.path()), &[b'x'; 2048])
        .await;
    assert_eq!(refusal_code(&answer), RefusalCode::InvalidInput);
}
