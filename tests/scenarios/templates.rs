//! Sandboxes that go on from a machine that has booted before: each is somebody of its own.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use smolvm_tests::{Host, cache_dir};

/// A host whose cache has no templates, and everything else that the user's has.
fn host_without_templates() -> (tempfile::TempDir, Host) {
    let cache = tempfile::Builder::new()
        .prefix("smolvm-cache-")
        // Beside the user's, on the same file system: the files are links.
        .tempdir_in(cache_dir().parent().expect("not the root"))
        .expect("a directory");
    for kind in ["kernel", "initramfs", "overlay", "root-image"] {
        link_tree(&cache_dir().join(kind), &cache.path().join(kind));
    }
    fs::copy(
        cache_dir().join("host-probe.json"),
        cache.path().join("host-probe.json"),
    )
    .expect("the host has been probed");
    let host =
        Host::new().with_environment("SMOLVM_CACHE_DIR", cache.path().to_str().expect("UTF-8"));
    (cache, host)
}

fn link_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            link_tree(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), target).expect("a link");
        }
    }
}

fn templates(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache.join("template")).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

#[test]
fn sandboxes_of_one_template_are_somebody_each() {
    let (cache, host) = host_without_templates();
    let names = ["first", "second", "third"];
    for name in names {
        host.start(name, &[]);
    }
    assert_eq!(templates(cache.path()).len(), 1);
    let mut seen = BTreeSet::new();
    for name in names {
        let line = "hostname; grep -c 127.0.1.1 /etc/hosts; cat /etc/hostname";
        assert_eq!(
            host.sh(name, line).ok().text(),
            format!("{name}\n1\n{name}\n")
        );
        let numbers = "od -An -N16 -tx1 /dev/urandom; cat /proc/sys/kernel/random/uuid";
        seen.insert(host.sh(name, numbers).ok().text());
        let _written = host.sh(name, &format!("echo {name} >/root/who")).ok();
    }
    assert_eq!(seen.len(), names.len(), "{seen:?}");
    for name in names {
        assert_eq!(
            host.sh(name, "cat /root/who").ok().text(),
            format!("{name}\n")
        );
    }
    host.start("cold", &["--cold"]);
    assert_eq!(templates(cache.path()).len(), 1);
    let cmdline = host.sh("cold", "cat /proc/cmdline").ok().text();
    assert!(cmdline.contains("smolvm.hostname=cold"), "{cmdline}");
    let cmdline = host.sh("first", "cat /proc/cmdline").ok().text();
    assert!(cmdline.contains("smolvm.hostname=template"), "{cmdline}");
}

#[test]
fn files_of_a_sandbox_that_did_not_boot_survive_its_stop() {
    let (_cache, host) = host_without_templates();
    host.start("box", &[]);
    let _written = host.sh("box", "echo kept >/root/note").ok();
    let _stopped = host.smolvm(&["stop", "box"]).ok();
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(
        host.sh("box", "cat /root/note; hostname").ok().text(),
        "kept\nbox\n"
    );
}

#[test]
fn several_at_once_make_one_template() {
    let (cache, host) = host_without_templates();
    std::thread::scope(|scope| {
        for name in ["one", "two", "three"] {
            let host = &host;
            scope.spawn(move || host.start(name, &[]));
        }
    });
    assert_eq!(templates(cache.path()).len(), 1);
    for name in ["one", "two", "three"] {
        assert_eq!(host.sh(name, "hostname").ok().text(), format!("{name}\n"));
    }
}

#[test]
fn template_that_was_written_to_is_not_used() {
    let (cache, host) = host_without_templates();
    host.start("before", &[]);
    let [template] = &templates(cache.path())[..] else {
        panic!("one template");
    };
    let memory = OpenOptions::new()
        .write(true)
        .open(template.join("memory"))
        .expect("a file");
    // What lies there is the first code that a processor executes of the kernel.
    memory
        .write_all_at(&[0xf4; 4096], 16 << 20)
        .expect("written");
    drop(memory);
    host.start("after", &[]);
    assert_eq!(host.sh("after", "hostname").ok().text(), "after\n");
    // The damaged one was set aside.
    let damaged = fs::read(template.join("memory")).ok();
    let is_damaged = damaged.is_some_and(|bytes| bytes[16 << 20..][..4096] == [0xf4; 4096]);
    assert!(!is_damaged);
}

#[test]
fn templates_are_listed_and_removed_while_sandboxes_go_on() {
    let (cache, host) = host_without_templates();
    let nothing = host.smolvm(&["template", "list"]).ok().text();
    assert!(nothing.contains("no templates"), "{nothing}");
    host.start("first", &["--memory", "384"]);

    let listed = host.smolvm(&["--json", "template", "list"]).ok().json();
    let [template] = &listed["data"]["templates"].as_array().expect("a list")[..] else {
        panic!("one template: {listed}");
    };
    assert_eq!(template["memory_mib"], 384);
    assert_eq!(template["vcpus"], 1);
    assert_eq!(template["engine"], "qemu");
    assert_eq!(template["network"], true);
    let size = template["size_bytes"].as_u64().expect("a number");
    // Only what the guest has touched takes space.
    assert!((30 << 20..384 << 20).contains(&size), "{size}");

    let kept = host
        .smolvm(&["template", "prune", "--unused-for", "1h"])
        .ok()
        .text();
    assert_eq!(kept, "No template was removed.\n");
    let removed = host.smolvm(&["--json", "template", "prune"]).ok().json();
    assert_eq!(removed["data"]["removed"][0]["name"], template["name"]);
    assert_eq!(templates(cache.path()).len(), 0);

    assert_eq!(host.sh("first", "hostname").ok().text(), "first\n");
    let _stopped = host.smolvm(&["stop", "first"]).ok();
    let _started = host.smolvm(&["start", "first"]).ok();
    host.start("second", &["--memory", "384"]);
    assert_eq!(templates(cache.path()).len(), 1);
}

#[test]
fn setup_makes_the_template_that_the_first_run_uses() {
    let (cache, host) = host_without_templates();
    let _prepared = host.smolvm(&["setup"]).ok();
    let made = templates(cache.path());
    assert_eq!(made.len(), 1);
    let line = ["run", "--", "cat", "/proc/cmdline"];
    let cmdline = host.smolvm(&line).ok().text();
    assert!(cmdline.contains("smolvm.hostname=template"), "{cmdline}");
    assert_eq!(templates(cache.path()), made);
}

#[test]
fn machine_boots_where_no_template_can_be_made() {
    let (cache, host) = host_without_templates();
    // All else is there.
    let _ran = host.smolvm(&["run", "--cold", "--", "true"]).ok();
    let staging = cache.path().join("staging");
    let _was_there = fs::remove_dir(&staging);
    // A directory in which nothing can be made, not even by root.
    std::os::unix::fs::symlink("/proc", &staging).expect("a link");
    let outcome = host.smolvm(&["run", "--", "cat", "/proc/cmdline"]).ok();
    let warned = outcome.errors();
    assert!(
        warned.contains("the machine boots, because there is no template"),
        "{warned}"
    );
    assert!(!outcome.text().contains("smolvm.hostname=template"));
}
