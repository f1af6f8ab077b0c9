//! The cache under concurrency, damage and full disks, seen through overlay templates: the
//! artefact that is made quickest.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use smolvm_image::{
    Cache, CacheError, CommandError, Corruption, NoProgress, OverlayError, Progress,
    overlay_template,
};

/// Any size will do.
const SIZE_MIB: u32 = 64;

/// Remembers what it hears.
#[derive(Default)]
struct Record(Mutex<Vec<String>>);

impl Record {
    fn heard(&self, text: &str) -> usize {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    fn hear(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
}

impl Progress for Record {
    fn started(&self, step: &str, _total: Option<u64>) {
        self.hear(format!("started {step}"));
    }
    fn advanced(&self, _done: u64) {}
    fn finished(&self, _step: &str) {}
    fn warning(&self, message: &str) {
        self.hear(format!("warning {message}"));
    }
}

/// Opens a new cache, or says why these tests cannot run.
fn new_cache() -> Option<(tempfile::TempDir, Cache)> {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    if let Err(OverlayError::Command(error @ CommandError::Missing { .. })) =
        overlay_template(&cache, 16, &NoProgress)
    {
        println!("skipped: {error}");
        return None;
    }
    Some((directory, cache))
}

fn staged(cache: &Cache) -> usize {
    fs::read_dir(cache.root().join("staging")).unwrap().count()
}

fn damage(path: &Path, change: impl FnOnce(&fs::File)) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    change(
        &OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap(),
    );
}

#[test]
fn a_new_cache_is_private_and_an_open_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("cache");
    Cache::open(&root).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
    fs::set_permissions(&root, Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        Cache::open(&root),
        Err(CacheError::NotPrivate { mode: 0o777, .. })
    ));
}

#[test]
fn concurrent_builders_build_once_and_the_others_wait() {
    let Some((_directory, cache)) = new_cache() else {
        return;
    };
    let record = Record::default();
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let build = || overlay_template(&cache, SIZE_MIB, &record).unwrap();
        let builders: Vec<_> = (0..8).map(|_| scope.spawn(build)).collect();
        builders
            .into_iter()
            .map(|builder| builder.join().unwrap())
            .collect()
    });
    assert_eq!(record.heard("started formatting"), 1);
    assert!(paths.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(staged(&cache), 0);
}

#[test]
fn what_a_killed_builder_left_is_removed_and_never_used() {
    let Some((_directory, cache)) = new_cache() else {
        return;
    };
    let left = |key: &str| {
        let left = cache
            .root()
            .join("staging")
            .join(format!("{key}.999-0-1/output"));
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("overlay.ext4"), "half built").unwrap();
        left
    };
    let same_key = left(&format!("overlay-ext4-v1-{SIZE_MIB}mib"));
    let free_key = left("kernel-abandoned");
    let held_key = left("kernel-in-work");
    let lock = fs::File::create(cache.root().join("locks/kernel-in-work")).unwrap();
    lock.lock().unwrap();

    let path = overlay_template(&cache, SIZE_MIB, &NoProgress).unwrap();

    assert_eq!(fs::metadata(path).unwrap().len(), u64::from(SIZE_MIB) << 20);
    assert!(!same_key.exists());
    assert!(!free_key.exists());
    assert!(held_key.exists(), "a running builder keeps its files");
}

#[test]
fn a_flipped_bit_is_noticed_and_the_artefact_is_made_anew() {
    let Some((_directory, cache)) = new_cache() else {
        return;
    };
    let path = overlay_template(&cache, SIZE_MIB, &NoProgress).unwrap();
    let sound = fs::read(&path).unwrap();
    damage(&path, |file| file.write_all_at(b"!", 4096).unwrap());
    let record = Record::default();

    let again = overlay_template(&cache, SIZE_MIB, &record).unwrap();

    assert_eq!(record.heard("warning"), 1);
    assert_eq!(record.heard("other content"), 1);
    assert_eq!(fs::read(again).unwrap().len(), sound.len());
    assert_eq!(
        fs::read_dir(cache.root().join("set-aside"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn a_shortened_file_is_noticed() {
    let Some((_directory, cache)) = new_cache() else {
        return;
    };
    let path = overlay_template(&cache, SIZE_MIB, &NoProgress).unwrap();
    damage(&path, |file| file.set_len(4096).unwrap());
    let record = Record::default();
    overlay_template(&cache, SIZE_MIB, &record).unwrap();
    assert_eq!(record.heard("4096 bytes instead of"), 1);
}

#[test]
fn a_link_in_the_place_of_a_file_is_not_followed() {
    let Some((directory, cache)) = new_cache() else {
        return;
    };
    let path = overlay_template(&cache, SIZE_MIB, &NoProgress).unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let record = Record::default();
    overlay_template(&cache, SIZE_MIB, &record).unwrap();
    assert_eq!(record.heard("warning"), 1);
}

#[test]
fn a_truncated_manifest_is_noticed() {
    let Some((_directory, cache)) = new_cache() else {
        return;
    };
    let path = overlay_template(&cache, SIZE_MIB, &NoProgress).unwrap();
    damage(&path.with_file_name("manifest.json"), |file| {
        file.set_len(40).unwrap()
    });
    let record = Record::default();
    let again = overlay_template(&cache, SIZE_MIB, &record).unwrap();
    assert_eq!(record.heard("warning"), 1);
    assert!(again.exists());
}

#[test]
fn a_touched_but_equal_file_is_trusted_again() {
    let Some((_directory, cache)) = new_cache() else {
        return;
    };
    let path = overlay_template(&cache, SIZE_MIB, &NoProgress).unwrap();
    let manifest = path.with_file_name("manifest.json");
    let before = fs::read(&manifest).unwrap();
    damage(&path, |_| {});
    let record = Record::default();
    assert_eq!(overlay_template(&cache, SIZE_MIB, &record).unwrap(), path);
    assert_eq!(record.heard(""), 0, "nothing is built and nothing is odd");
    assert_ne!(
        fs::read(&manifest).unwrap(),
        before,
        "the new stamp is remembered"
    );
}

#[test]
fn verification_reads_every_byte() {
    let Some((_directory, cache)) = new_cache() else {
        return;
    };
    let path = overlay_template(&cache, SIZE_MIB, &NoProgress).unwrap();
    assert!(cache.verify(&NoProgress).unwrap().damaged.is_empty());
    damage(&path, |file| file.write_all_at(b"!", 1 << 20).unwrap());

    let report = cache.verify(&NoProgress).unwrap();

    let [(damaged, Corruption::Content { .. })] = report.damaged.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!(Some(damaged.as_path()), path.parent());
    assert!(!path.exists(), "it was set aside");
}

#[test]
fn an_overlay_is_sparse_and_a_file_system() {
    let Some((_directory, cache)) = new_cache() else {
        return;
    };
    let path = overlay_template(&cache, 2048, &NoProgress).unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 8 << 20);
    let checked = Command::new("/usr/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(&path)
        .output();
    assert!(checked.unwrap().status.success());
}

#[test]
fn impossible_sizes_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let error = overlay_template(&cache, 1, &NoProgress).unwrap_err();
    assert!(matches!(error, OverlayError::Size { size_mib: 1 }));
}

/// Where the second half of the next test finds its full disk.
const FULL_DISK: &str = "SMOLVM_TEST_FULL_DISK";

#[test]
fn a_full_disk_is_a_typed_error_and_leaves_nothing() {
    if let Some(directory) = std::env::var_os(FULL_DISK) {
        return on_full_disk(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=16k none \"$1\" && exec \"$2\" --exact \
                  a_full_disk_is_a_typed_error_and_leaves_nothing --nocapture";
    let namespaces = [
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
    ];
    let output = Command::new("unshare")
        .args(namespaces)
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .env(FULL_DISK, directory.path())
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    if messages.contains("unshare failed") || messages.contains("permission denied") {
        println!("skipped: no user namespaces here: {messages}");
        return;
    }
    assert!(
        output.status.success(),
        "{}{messages}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn on_full_disk(directory: &Path) {
    let cache = Cache::open(&directory.join("cache")).unwrap();
    let error = overlay_template(&cache, SIZE_MIB, &NoProgress).unwrap_err();
    let is_full = matches!(
        error,
        OverlayError::Command(CommandError::DiskFull { .. })
            | OverlayError::Cache(CacheError::Full { .. })
    );
    assert!(is_full, "{error:?}");
    assert_eq!(staged(&cache), 0);
    assert_eq!(
        fs::read_dir(cache.root().join("overlay")).unwrap().count(),
        0
    );
    let missing = directory.join("missing.deb");
    let error = smolvm_image::kernel_from_package(&cache, &missing, &NoProgress).unwrap_err();
    let smolvm_image::KernelError::Cache(CacheError::Full {
        needed_bytes,
        available_bytes,
        ..
    }) = error
    else {
        panic!("{error:?}");
    };
    assert!(needed_bytes > available_bytes);
}
