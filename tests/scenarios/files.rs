//! Files in and out.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use smolvm_tests::Host;

#[test]
fn tree_goes_in_and_comes_out_the_same() {
    let host = Host::new();
    host.start("box", &[]);
    let source = host.path().join("tree");
    fs::create_dir_all(source.join("deep/er")).expect("made");
    fs::write(source.join("deep/er/data"), [0, 255, 10, 13]).expect("written");
    fs::write(source.join("run.sh"), "#!/bin/sh\necho ran\n").expect("written");
    fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o755)).expect("set");
    symlink("deep/er/data", source.join("link")).expect("linked");
    let odd_name = OsStr::from_bytes(b"not \xff utf-8");
    fs::write(source.join(odd_name), "odd").expect("written");

    let source_text = source.to_str().expect("UTF-8");
    let _copied = host.smolvm(&["cp", source_text, "box:/root"]).ok();
    let seen = host.sh(
        "box",
        "cd /root/tree && ./run.sh && readlink link && cat link | od -An -tx1",
    );
    assert_eq!(seen.ok().text(), "ran\ndeep/er/data\n 00 ff 0a 0d\n");

    let back = host.path().join("back");
    let _copied = host
        .smolvm(&["cp", "box:/root/tree", back.to_str().expect("UTF-8")])
        .ok();
    assert_eq!(
        fs::read(back.join("deep/er/data")).expect("copied"),
        [0, 255, 10, 13]
    );
    assert_eq!(
        fs::read_link(back.join("link"))
            .expect("a link")
            .as_os_str(),
        "deep/er/data"
    );
    assert_eq!(fs::read(back.join(odd_name)).expect("copied"), b"odd");
    let mode = fs::metadata(back.join("run.sh"))
        .expect("copied")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[tokio::test]
async fn files_and_directories_of_the_image_get_other_names() {
    let host = Host::new();
    host.start("box", &[]);
    let sandbox = host.open("box");
    let _made = host
        .sh("box", "mkdir /root/mine && echo x > /root/file")
        .ok();
    for (from, to) in [
        ("/root/mine", "/root/yours"),
        // A directory that only the read-only image has, and a file of it.
        ("/etc/apt", "/root/apt"),
        ("/etc/passwd", "/root/passwd"),
    ] {
        sandbox
            .move_file(from.as_bytes(), to.as_bytes(), false)
            .await
            .unwrap_or_else(|error| panic!("{from}: {error}"));
        let seen = host.sh(
            "box",
            &format!("test ! -e {from} && test -e {to} && ls -A {to}"),
        );
        assert_eq!(seen.code, 0, "{from}");
    }
    assert!(
        host.sh("box", "ls /root/apt")
            .text()
            .contains("sources.list")
    );

    let taken = sandbox
        .move_file(b"/root/file", b"/root/passwd", false)
        .await;
    let message = taken.expect_err("taken").to_string();
    assert_eq!(message, "/root/passwd: exists already");
    sandbox
        .move_file(b"/root/file", b"/root/passwd", true)
        .await
        .expect("replaced");
    assert_eq!(host.sh("box", "cat /root/passwd").ok().text(), "x\n");
    let elsewhere = sandbox
        .move_file(b"/root/passwd", b"/dev/shm/p", true)
        .await;
    let message = elsewhere.expect_err("another file system").to_string();
    assert_eq!(
        message,
        "/dev/shm/p: is on another file system; copy it instead"
    );
    let missing = sandbox.move_file(b"/no/such", b"/root/x", false).await;
    let message = missing.expect_err("missing").to_string();
    assert_eq!(message, "/no/such: no such file or directory");

    let _stopped = host.smolvm(&["stop", "box"]).ok();
    let _started = host.smolvm(&["start", "box"]).ok();
    assert!(
        host.sh("box", "ls /root/apt")
            .text()
            .contains("sources.list")
    );
}

#[test]
fn archive_of_a_hostile_guest_stays_inside_its_destination() {
    let host = Host::new();
    host.start("box", &[]);
    // A link out of the tree, and below its name a file that would be written through it.
    let trap = "mkdir -p /root/t && ln -s /tmp /root/t/a && echo x > /tmp/escaped";
    let _made = host.sh("box", trap).ok();
    let back = host.path().join("back");
    let _copied = host
        .smolvm(&["cp", "box:/root/t", back.to_str().expect("UTF-8")])
        .ok();
    assert!(
        fs::symlink_metadata(back.join("a"))
            .expect("copied")
            .is_symlink()
    );
}

#[test]
fn files_of_the_kernel_are_copied_with_what_is_in_them() {
    let host = Host::new();
    host.start("box", &[]);
    // One says that it has no bytes, the other that it has a page.
    for path in ["/proc/cpuinfo", "/sys/devices/system/cpu/online"] {
        let copy = host.path().join("copy");
        let source = format!("box:{path}");
        let _copied = host
            .smolvm(&["cp", &source, copy.to_str().expect("UTF-8")])
            .ok();
        let content = host.sh("box", &format!("cat {path}")).ok().text();
        assert_eq!(fs::read_to_string(&copy).expect("copied"), content);
    }
}

#[test]
fn full_disk_of_the_guest_is_named_and_the_sandbox_answers_on() {
    let host = Host::new();
    host.start("box", &["--disk-size", "64"]);
    let full = host.sh("box", "head -c 200M /dev/zero > /root/big");
    assert_ne!(full.code, 0);
    assert!(
        full.errors().contains("No space left on device"),
        "{}",
        full.errors()
    );
    let _removed = host
        .sh("box", "rm /root/big && echo room > /root/small")
        .ok();

    let big = host.path().join("big");
    fs::write(&big, vec![b'x'; 100 << 20]).expect("written");
    let refused = host.smolvm(&["cp", big.to_str().expect("UTF-8"), "box:/root/big"]);
    assert_eq!(refused.code, 1);
    assert!(refused.errors().contains("space"), "{}", refused.errors());
    let overlay = host.sandbox("box").join("overlay.img");
    assert_eq!(
        fs::metadata(overlay).expect("there").len(),
        64 << 20,
        "never larger"
    );
}

#[test]
fn copies_that_cannot_be_made_say_why() {
    let host = Host::new();
    host.start("box", &[]);
    let here = host.path().to_str().expect("UTF-8").to_owned();
    let missing = host.smolvm(&["cp", "box:/no/such/file", &here]);
    assert_eq!(missing.code, 1);
    assert!(
        missing.errors().contains("/no/such/file"),
        "{}",
        missing.errors()
    );
    let missing = host.smolvm(&["cp", "/no/such/file", "box:/root"]);
    assert_eq!(missing.code, 1);
    assert!(
        missing.errors().contains("/no/such/file"),
        "{}",
        missing.errors()
    );
    let relative = host.smolvm(&["cp", "box:relative", &here]);
    assert!(
        relative.errors().contains("absolute"),
        "{}",
        relative.errors()
    );
}
