//! Bad input and missing parts: a one-line reason, the right exit code, nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use smolvm_tests::Host;

/// Asserts that a command is refused with `code`, that its reason has `words`, and that no
/// sandbox is left.
fn refused(host: &Host, arguments: &[&str], code: i32, words: &str) {
    let outcome = host.smolvm(arguments);
    assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.errors());
    let errors = outcome.errors();
    assert!(
        errors.to_lowercase().contains(words),
        "{arguments:?}: {errors}"
    );
    assert_eq!(host.remains(), Vec::<String>::new(), "{arguments:?}");
}

#[test]
fn values_out_of_range_are_refused_before_anything_is_made() {
    let host = Host::new();
    refused(&host, &["run", "--memory", "1", "--", "true"], 2, "memory");
    refused(
        &host,
        &["run", "--memory", "99999999", "--", "true"],
        2,
        "memory",
    );
    refused(&host, &["run", "--cpus", "0", "--", "true"], 2, "cpus");
    refused(&host, &["run", "--cpus", "33", "--", "true"], 2, "cpus");
    refused(&host, &["run", "--disk-size", "1", "--", "true"], 2, "disk");
    refused(&host, &["create", "--name", "No/Good"], 2, "name");
    refused(&host, &["create", "--name", ".."], 2, "name");
}

#[test]
fn unknown_image_is_named_with_those_there_are() {
    let host = Host::new();
    refused(
        &host,
        &["run", "--image", "no-such-image", "--", "true"],
        125,
        "debian",
    );
    refused(
        &host,
        &["create", "--image", "no-such-image"],
        1,
        "no-such-image",
    );
}

#[test]
fn sandbox_that_is_not_there_is_not_found() {
    let host = Host::new();
    for command in ["start", "stop", "delete", "info", "logs"] {
        refused(&host, &[command, "no-such-box"], 1, "not found");
    }
    refused(
        &host,
        &["exec", "no-such-box", "--", "true"],
        125,
        "not found",
    );
}

#[test]
fn taken_name_is_refused_and_the_first_sandbox_kept() {
    let host = Host::new();
    let _created = host.smolvm(&["create", "--name", "box"]).ok();
    let second = host.smolvm(&["create", "--name", "box"]);
    assert_eq!(second.code, 1);
    assert!(
        second.errors().contains("already exists"),
        "{}",
        second.errors()
    );
    assert_eq!(host.remains(), ["box"]);
}

#[test]
fn command_line_nearly_as_long_as_linux_takes_arrives_whole() {
    let host = Host::new();
    host.start("box", &[]);
    // The host's own limits are 128 KiB for one argument and 2 MiB for all (execve(2)); what is
    // longer never reaches this program.
    let argument = "x".repeat(100_000);
    let mut arguments = vec!["exec", "box", "--", "echo", "-n"];
    arguments.extend(std::iter::repeat_n(argument.as_str(), 19));
    assert_eq!(host.smolvm(&arguments).ok().stdout.len(), 19 * 100_000 + 18);
}

#[test]
fn missing_qemu_is_said_with_the_package_that_has_it() {
    let empty = tempfile::tempdir().expect("directory");
    let host = Host::new().with_environment("PATH", empty.path().to_str().expect("UTF-8"));
    let outcome = host.smolvm(&["run", "--", "true"]);
    assert_eq!(outcome.code, 125);
    let errors = outcome.errors();
    assert!(errors.contains("qemu-system-x86_64"), "{errors}");
    assert!(errors.contains("qemu-system-x86"), "{errors}");
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[test]
fn missing_disk_fails_the_start_by_name_and_does_not_hang() {
    let host = Host::new();
    let _created = host.smolvm(&["create", "--name", "box"]).ok();
    fs::remove_file(host.sandbox("box").join("overlay.img")).expect("there");
    let outcome = host.smolvm(&["start", "box"]);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.errors().contains("overlay.img"),
        "{}",
        outcome.errors()
    );
}

#[test]
fn damaged_description_is_named_and_the_sandbox_can_be_deleted() {
    let host = Host::new();
    let _created = host.smolvm(&["create", "--name", "box"]).ok();
    fs::write(host.sandbox("box").join("state.json"), b"{").expect("written");
    let outcome = host.smolvm(&["info", "box"]);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.errors().contains("state.json"),
        "{}",
        outcome.errors()
    );
    let _deleted = host.smolvm(&["delete", "box"]).ok();
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[test]
fn damaged_cache_file_is_noticed_made_again_and_told() {
    let cache = tempfile::tempdir().expect("directory");
    let host =
        Host::new().with_environment("SMOLVM_CACHE_DIR", cache.path().to_str().expect("UTF-8"));
    copy_prepared_cache(cache.path());
    for initramfs in find(cache.path(), "initramfs.cpio") {
        let mut bytes = fs::read(&initramfs).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&initramfs, &bytes).expect("written");
    }

    let outcome = host.smolvm(&["run", "--", "echo", "fine"]).ok();
    assert_eq!(outcome.text(), "fine\n");
    assert!(outcome.errors().contains("damaged"), "{}", outcome.errors());
    let again = host.smolvm(&["run", "--", "echo", "fine"]).ok();
    assert!(!again.errors().contains("damaged"), "{}", again.errors());
}

/// Copies what `smolvm setup` has prepared for this user.
fn copy_prepared_cache(to: &Path) {
    let prepared = smolvm_tests::cache_dir();
    let copy = Command::new("cp")
        .arg("-a")
        .arg(prepared.join("."))
        .arg(to)
        .status();
    assert!(copy.expect("cp runs").success());
}

/// Returns the files below `directory` whose names start with `name`: a cache keeps those of
/// earlier versions, too.
fn find(directory: &Path, name: &str) -> Vec<PathBuf> {
    let mut unseen = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = unseen.pop() {
        for entry in fs::read_dir(directory).expect("readable").flatten() {
            if entry.file_type().expect("known").is_dir() {
                unseen.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(name) {
                found.push(entry.path());
            }
        }
    }
    assert!(!found.is_empty(), "no {name} in the cache");
    found
}
