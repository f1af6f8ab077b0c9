//! Every seed and every input that once found something goes through its target again.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use smolvm_fuzz_bodies::{TARGETS, Target};

/// Runs a target on an input. A panic in a task ends the test, too, as it ends libFuzzer: tokio keeps
/// it to the task. So the message goes past the test's captured output, which is lost then.
fn replay(target: &Target, name: &str, input: &[u8]) {
    let name = format!("{} with {name}", target.name);
    std::panic::set_hook(Box::new(move |panic| {
        let _unheard = writeln!(io::stderr(), "{name}: {panic}");
        std::process::abort();
    }));
    (target.run)(input);
    drop(std::panic::take_hook());
}

fn fuzz_directory() -> PathBuf {
    let bodies = Path::new(env!("CARGO_MANIFEST_DIR"));
    bodies.parent().expect("below `fuzz`").to_owned()
}

/// Returns the names in a directory, without extensions.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name");
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

fn regressions(target: &Target) -> Vec<PathBuf> {
    let directory = fuzz_directory().join("regressions").join(target.name);
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn seeds_and_inputs_that_found_something_hold() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has none", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            replay(target, &format!("seed-{number}"), seed);
        }
        for path in regressions(target) {
            let name = path.display().to_string();
            replay(target, &name, &fs::read(&path).expect("a file"));
        }
    }
}

#[test]
fn every_target_has_its_file_and_every_regression_its_target() {
    let targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names_in(&fuzz_directory().join("fuzz_targets")), targets);
    for name in names_in(&fuzz_directory().join("regressions")) {
        assert!(
            name == "README" || targets.contains(&name.as_str()),
            "{name}"
        );
    }
}
