//! Guests that boot from the user's own files.

use std::fs;
use std::path::{Path, PathBuf};

use smolvm_sandbox::{CreateError, CustomBoot, DiskMib, Lifetime, SandboxSpec};
use smolvm_tests::{Host, roots};

fn spec(name: &str, custom: CustomBoot) -> SandboxSpec {
    SandboxSpec {
        custom: Some(custom),
        ..SandboxSpec::new(name.parse().expect("a name"), Lifetime::Persistent)
    }
}

/// Returns the prepared kernel; the cache has one once any sandbox has started.
fn prepared_kernel(host: &Host) -> PathBuf {
    let cache = smolvm_image::Cache::open(&host.installation().cache_dir).expect("cache");
    let kernel = smolvm_image::kernel(&cache, &smolvm_image::NoProgress);
    kernel.expect("prepared").image
}

async fn start(host: &Host, spec: SandboxSpec) {
    let name = spec.id.clone();
    host.create(spec).await.expect("created");
    let _started = host.smolvm(&["start", name.as_str()]).ok();
}

#[tokio::test]
async fn own_root_below_an_overlay_stays_as_it_was() {
    let host = Host::new();
    let (root, kernel) = (
        host.path().join("root,1.ext4"),
        host.path().join("vmlinux.bin"),
    );
    roots::small_ext4(&root, 64);
    fs::copy(prepared_kernel(&host), &kernel).expect("copied");
    let before = fs::read(&root).expect("read");
    let custom = CustomBoot {
        kernel: Some(kernel),
        root_image: Some(root.clone()),
        boot_args: Some(
            "console=ttyS0 reboot=k panic=1 pci=off root=/dev/vda rw init=/init own.word=1".into(),
        ),
        ..CustomBoot::default()
    };
    let disk = DiskMib::try_from(128_u32).expect("legal");
    start(
        &host,
        SandboxSpec {
            disk,
            ..spec("own", custom)
        },
    )
    .await;

    assert_eq!(
        host.sh(
            "own",
            "cat /etc/marker; echo changed > /etc/marker; cat /etc/marker"
        )
        .ok()
        .text(),
        "a root of the user's own\nchanged\n"
    );
    let line = host.sh("own", "cat /proc/cmdline").ok().text();
    assert!(line.contains(" own.word=1"), "{line}");
    assert!(
        !line.contains("init=/init") && !line.contains("/dev/vda"),
        "{line}"
    );
    let overlay = fs::metadata(host.sandbox("own").join("overlay.img")).expect("there");
    assert_eq!(
        overlay.len(),
        128 << 20,
        "the disk is of the size asked for"
    );
    let _stopped = host.smolvm(&["stop", "own"]).ok();
    assert!(
        before == fs::read(&root).expect("read"),
        "the root was written to"
    );
    let _started = host.smolvm(&["start", "own"]).ok();
    assert_eq!(host.sh("own", "cat /etc/marker").ok().text(), "changed\n");
}

#[tokio::test]
async fn drives_come_in_order_and_initramfs_before_ours() {
    let host = Host::new();
    let drives = [0, 1].map(|index| host.path().join(format!("drive{index}.img")));
    for (index, drive) in drives.iter().enumerate() {
        let mut content = vec![0; 1 << 20];
        content[0] = b'0' + u8::try_from(index).expect("small");
        fs::write(drive, content).expect("write");
    }
    let custom = CustomBoot {
        initramfs: Some(initramfs_with_a_stray_init(host.path())),
        extra_drives: drives.to_vec(),
        ..CustomBoot::default()
    };
    start(&host, spec("box", custom)).await;
    let read = "for disk in /sys/block/vd*; do cat $disk/serial; echo; done";
    let serials = host.sh("box", read).ok().text();
    let serials: Vec<&str> = serials.split_whitespace().collect();
    assert_eq!(
        serials,
        [
            "smolvm-root",
            "smolvm-overlay",
            "smolvm-extra0",
            "smolvm-extra1"
        ],
    );
    let write = "head -c 1 /dev/vdc; head -c 1 /dev/vdd; printf xyz > /dev/vdd; sync";
    assert_eq!(host.sh("box", write).ok().text(), "01");
    let _stopped = host.smolvm(&["stop", "box"]).ok();
    assert_eq!(fs::read(&drives[1]).expect("read")[..3], *b"xyz");
    assert_eq!(fs::metadata(&drives[1]).expect("there").len(), 1 << 20);
}

/// Writes an initramfs whose `/init` would end the guest: ours must replace it.
fn initramfs_with_a_stray_init(directory: &Path) -> PathBuf {
    let entries = [cpio_entry("init", 0o100_755, b"#!/bin/false\n")];
    write_initramfs(directory, &entries)
}

fn write_initramfs(directory: &Path, entries: &[Vec<u8>]) -> PathBuf {
    let path = directory.join("initrd.img");
    let trailer = cpio_entry("TRAILER!!!", 0, b"");
    fs::write(&path, [entries.concat(), trailer].concat()).expect("write");
    path
}

/// Returns an entry of a cpio archive in the "newc" format (cpio(5)).
fn cpio_entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let (size, name_size) = (content.len(), name.len() + 1);
    let zeros = |count: usize| "00000000".repeat(count);
    // c_ino, c_mode, owner and links, c_mtime, c_filesize, devices, c_namesize, c_check.
    let header = format!(
        "07070100000001{mode:08x}{}00000001{}{size:08x}{}{name_size:08x}{}",
        zeros(2),
        zeros(1),
        zeros(4),
        zeros(1)
    );
    let mut bytes = header.into_bytes();
    for part in [[name.as_bytes(), b"\0"].concat().as_slice(), content] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[tokio::test]
async fn foreign_kernel_takes_its_modules_from_the_own_initramfs() {
    let host = Host::new();
    let prepared = prepared_kernel(&host);
    // One byte more at the end: a kernel that is not known to be ours.
    let kernel = host.path().join("vmlinux");
    let bytes = [fs::read(&prepared).expect("read"), vec![0]].concat();
    fs::write(&kernel, bytes).expect("write");
    let mut entries = vec![cpio_entry("modules", 0o40_755, b"")];
    let files = fs::read_dir(prepared.parent().expect("a parent")).expect("readable");
    for path in files.flatten().map(|file| file.path()) {
        let name = path.file_name().expect("a name").to_string_lossy();
        if name.ends_with(".ko") || name.ends_with(".list") {
            let content = fs::read(&path).expect("read");
            entries.push(cpio_entry(&format!("modules/{name}"), 0o100_644, &content));
        }
    }
    let custom = CustomBoot {
        kernel: Some(kernel),
        initramfs: Some(write_initramfs(host.path(), &entries)),
        ..CustomBoot::default()
    };
    start(&host, spec("box", custom)).await;
    assert_eq!(host.sh("box", "echo $((6 * 7))").ok().text(), "42\n");
}

#[tokio::test]
async fn kernel_that_is_none_ends_the_start_with_its_reason() {
    let host = Host::new();
    let kernel = host.path().join("vmlinux");
    let start_of_elf = fs::read(prepared_kernel(&host)).expect("read")[..4096].to_vec();
    fs::write(&kernel, start_of_elf).expect("write");
    let custom = CustomBoot {
        kernel: Some(kernel),
        ..CustomBoot::default()
    };
    host.create(spec("box", custom)).await.expect("created");
    let outcome = host.smolvm(&["start", "box"]);
    assert_ne!(outcome.code, 0);
    assert!(outcome.errors().contains("kernel"), "{}", outcome.errors());
}

#[tokio::test]
async fn kept_disk_is_taken_over_by_the_next_of_its_name() {
    let host = Host::new();
    let kept_spec = |disk: u32| SandboxSpec {
        keeps_disk: true,
        disk: DiskMib::try_from(disk).expect("legal"),
        ..SandboxSpec::new("box".parse().expect("a name"), Lifetime::Persistent)
    };
    start(&host, kept_spec(128)).await;
    let _written = host.sh("box", "echo kept > /root/note; sync").ok();
    let _deleted = host.smolvm(&["delete", "box"]).ok();
    let kept = host.installation().data_dir.join("kept-disks/box.img");
    assert_eq!(fs::metadata(&kept).expect("kept").len(), 128 << 20);

    let refused = host.create(kept_spec(256)).await.expect_err("another size");
    assert!(
        matches!(refused, CreateError::KeptDiskSize { .. }),
        "{refused}"
    );
    assert!(kept.exists(), "a refused creation keeps the disk");

    let once = SandboxSpec {
        keeps_disk: false,
        ..kept_spec(128)
    };
    start(&host, once).await;
    assert_eq!(host.sh("box", "cat /root/note").ok().text(), "kept\n");
    assert!(!kept.exists(), "the disk has one owner");
    let _deleted = host.smolvm(&["delete", "box"]).ok();
    assert!(!kept.exists(), "not asked to keep it again");
}
#[tokio::test]
async fn shared_root_is_written_to_itself() {
    let host = Host::new();
    let root = host.path().join("root.ext4");
    roots::small_ext4(&root, 64);
    let custom = CustomBoot {
        root_image: Some(root.clone()),
        is_shared: true,
        ..CustomBoot::default()
    };
    start(&host, spec("first", custom.clone())).await;
    let _written = host
        .sh("first", "echo from the first > /root/note; sync")
        .ok();
    assert!(!host.sandbox("first").join("overlay.img").exists());
    let _stopped = host.smolvm(&["stop", "first"]).ok();
    let _deleted = host.smolvm(&["delete", "first"]).ok();

    start(&host, spec("second", custom)).await;
    assert_eq!(
        host.sh("second", "cat /root/note").ok().text(),
        "from the first\n"
    );
}
