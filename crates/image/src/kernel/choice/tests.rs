//! Choices among kernels that are published here, without building one.

use super::*;
use crate::cache::{Inputs, Key, unix_ms};
use crate::kernel::{IMAGE_FILE, PACKAGE, foreign_kernel, kernel, prepared_kernel};
use crate::progress::NoProgress;

const STOCK: &str = "6.1.0-1-cloud-amd64";
const TUNED: &str = "6.12.1-smolvm";

fn cache() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    (directory, cache)
}

/// Publishes a kernel that calls itself `release`.
fn publish(cache: &Cache, key: &Key, release: &str) {
    let published = cache.build(key, &NoProgress, |staging| {
        fs::write(staging.output().join(IMAGE_FILE), release).unwrap();
        let inputs = [(RELEASE, release), (PACKAGE, "linux 1")];
        Ok::<Inputs, CacheError>(
            inputs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        )
    });
    published.unwrap();
    // Of two kernels of one millisecond nobody can say which is newer.
    let published_ms = unix_ms();
    while unix_ms() == published_ms {
        std::hint::spin_loop();
    }
}

fn used(cache: &Cache) -> String {
    prepared_kernel(cache, &NoProgress)
        .unwrap()
        .expect("a kernel")
        .release
}

fn choose(cache: &Cache, name: &str) -> Result<Option<Kernel>, KernelError> {
    let choice = KernelChoice::try_from(name.to_owned())?;
    use_kernel(cache, choice, &NoProgress)
}

#[test]
fn tuned_kernel_is_used_when_it_is_there_until_stock_is_chosen() {
    let (_directory, cache) = cache();
    publish(&cache, &stock::key(), STOCK);
    assert_eq!(used(&cache), STOCK);
    publish(&cache, &tuned::key(), TUNED);
    assert_eq!(used(&cache), TUNED);
    assert_eq!(kernel(&cache, &NoProgress).unwrap().release, TUNED);

    choose(&cache, "stock").unwrap();
    assert_eq!(used(&cache), STOCK);
    assert_eq!(kernel(&cache, &NoProgress).unwrap().release, STOCK);
    choose(&cache, "tuned").unwrap();
    assert_eq!(used(&cache), TUNED);
}

#[test]
fn an_older_kernel_can_be_chosen_by_its_release() {
    let (_directory, cache) = cache();
    publish(&cache, &tuned::key(), TUNED);
    publish(&cache, &tuned::key(), "6.12.2-smolvm");
    assert_eq!(used(&cache), "6.12.2-smolvm");
    let kernel = choose(&cache, TUNED).unwrap().expect("it is there");
    assert_eq!(kernel.release, TUNED);
    assert!(kernel.boot_modules.is_empty());
    assert_eq!(used(&cache), TUNED);
}

#[test]
fn a_kernel_that_is_not_there_cannot_be_chosen_and_changes_nothing() {
    let (_directory, cache) = cache();
    publish(&cache, &stock::key(), STOCK);
    for name in ["tuned", TUNED] {
        let error = choose(&cache, name).unwrap_err();
        let KernelError::Choice(KernelChoiceError::NotPrepared { choice }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(choice.to_string(), name);
    }
    for name in ["", "Tuned", "latest", "6.1/../..", "6.1 x", &"6".repeat(65)] {
        let error = choose(&cache, name).unwrap_err();
        assert!(
            matches!(error, KernelError::Choice(KernelChoiceError::Name { .. })),
            "{name}: {error:?}"
        );
    }
    assert_eq!(kernel_choice(&cache).unwrap(), None);
    assert_eq!(used(&cache), STOCK);
}

#[test]
fn a_stock_kernel_can_be_chosen_before_it_is_prepared() {
    let (_directory, cache) = cache();
    publish(&cache, &tuned::key(), TUNED);
    assert_eq!(choose(&cache, "stock").unwrap(), None);
    assert_eq!(prepared_kernel(&cache, &NoProgress).unwrap(), None);
}

#[test]
fn a_chosen_kernel_that_has_gone_is_missed_by_name() {
    let (_directory, cache) = cache();
    publish(&cache, &stock::key(), STOCK);
    publish(&cache, &tuned::key(), TUNED);
    let kernel = choose(&cache, "tuned").unwrap().expect("it is there");
    fs::remove_dir_all(kernel.image.parent().unwrap()).unwrap();
    let error = prepared_kernel(&cache, &NoProgress).unwrap_err();
    assert!(
        matches!(
            error,
            KernelError::Choice(KernelChoiceError::NotPrepared { .. })
        ),
        "{error:?}"
    );
    let listed = kernels(&cache, &NoProgress).unwrap();
    assert_eq!(listed.len(), 1);
    assert!(!listed[0].is_used);
}

#[test]
fn the_list_has_every_kernel_the_newest_first_and_says_which_is_used() {
    let (_directory, cache) = cache();
    assert_eq!(kernels(&cache, &NoProgress).unwrap(), []);
    publish(&cache, &stock::key(), STOCK);
    publish(&cache, &tuned::key(), TUNED);
    publish(&cache, &tuned::key(), "6.12.22-smolvm");
    let listed = kernels(&cache, &NoProgress).unwrap();
    let rows: Vec<_> = listed
        .iter()
        .map(|row| {
            (
                row.flavour.as_str(),
                row.kernel.release.as_str(),
                row.size_bytes,
                row.is_used,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("stock", STOCK, 19, false),
            ("tuned", "6.12.22-smolvm", 14, true),
            ("tuned", TUNED, 13, false),
        ]
    );
}

#[test]
fn a_file_that_this_version_does_not_write_is_refused() {
    let (_directory, cache) = cache();
    publish(&cache, &stock::key(), STOCK);
    let path = cache.root().join(CHOICE_FILE);
    for text in [
        "",
        "{}",
        r#"{"version": 1, "kernel": "latest"}"#,
        r#"{"version": 2, "kernel": "stock"}"#,
        r#"{"version": 1, "kernel": "stock", "more": 1}"#,
    ] {
        fs::write(&path, text).unwrap();
        let error = prepared_kernel(&cache, &NoProgress).unwrap_err();
        assert!(
            matches!(
                error,
                KernelError::Choice(KernelChoiceError::Damaged { .. })
            ),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn a_copy_of_a_tuned_kernel_is_known_as_one() {
    let (directory, cache) = cache();
    publish(&cache, &stock::key(), STOCK);
    publish(&cache, &tuned::key(), TUNED);
    let copy = directory.path().join("vmlinux.bin");
    fs::copy(kernel(&cache, &NoProgress).unwrap().image, &copy).unwrap();
    let found = foreign_kernel(&cache, &copy, &NoProgress).unwrap();
    assert_eq!((found.release.as_str(), found.image), (TUNED, copy.clone()));
    fs::write(&copy, "6.12.9-smolvm").unwrap();
    let other = foreign_kernel(&cache, &copy, &NoProgress).unwrap();
    assert_eq!(other.release, "");
}
