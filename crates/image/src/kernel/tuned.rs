//! The tuned kernel: built from Debian's source package with our configuration.
//!
//! What comes out depends on the source, the configuration, the compiler and the linker, and on
//! nothing else: not on the directory, the user, the host, the time or the environment. So these
//! are what an artefact is known by, and the same ones give the same bytes.

use std::fs;
use std::io::{self, BufReader};
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread::available_parallelism;

use crate::cache::{Artefact, ArtefactKind, Cache, Inputs, Key, Staging, io_error};
use crate::command::{CommandError, Invocation};
use crate::digest::Digest;
use crate::kernel::package::{self, Candidate};
use crate::kernel::toolchain::{self, MAKE, STRIP};
use crate::kernel::{
    IMAGE_FILE, Kernel, KernelError, PACKAGE, RELEASE, boot_image, config, source,
};
use crate::progress::{Progress, step};

/// Version of how an artefact is laid out and made; part of the key.
const FORMAT: u32 = 1;

/// Names of the artefact's inputs, beside those of every kernel.
const SOURCE_DIGEST: &str = "source-sha256";
const COMPILER: &str = "compiler";

/// The configuration that the kernel has, beside it for people.
const CONFIG_FILE: &str = "config";

/// Free space that building needs: package 0.15 GB, source 1.7 GB, objects 0.2 GB for 6.12; half as
/// much again, as kernels grow.
const NEEDED_BYTES: u64 = 3 << 30;

/// What the build is told instead of asking the host: when, by whom and where it is built, and that
/// there is neither Rust nor pahole, whose versions would end up in the configuration that the
/// kernel carries (Linux Documentation/kbuild/reproducible-builds.rst).
const ENVIRONMENT: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "smolvm"),
    ("KBUILD_BUILD_HOST", "smolvm"),
    ("KBUILD_BUILD_VERSION", "1"),
];
const VARIABLES: [&str; 4] = [
    "ARCH=x86_64",
    "PAHOLE=/nonexistent",
    "RUSTC=/nonexistent",
    "BINDGEN=/nonexistent",
];

/// Builds the tuned kernel from the source that the host's package lists offer now, unless it is
/// built already. Takes minutes. Machines boot it from then on, unless another kernel was chosen.
///
/// # Errors
///
/// When something that kernels are built with is not installed, the source cannot be fetched, does
/// not take our configuration or cannot be compiled, or the result cannot be stored.
pub fn build_kernel(cache: &Cache, progress: &dyn Progress) -> Result<Kernel, KernelError> {
    toolchain::check()?;
    let compiler = toolchain::versions(cache.root())?;
    let candidate = step(progress, "choosing the kernel's source", None, || {
        package::described(cache.root(), source::SOURCE_PACKAGE.to_owned())
    })?;
    let inputs = inputs(&candidate, &compiler);
    let is_it = |artefact: &Artefact| {
        let mut inputs = inputs.iter();
        inputs.all(|(name, value)| artefact.input(name) == value)
    };
    let artefact = cache.obtain(&key(), progress, is_it, |staging| {
        cache.require_space(NEEDED_BYTES)?;
        let release = build(staging, &candidate, progress)?;
        let mut inputs = inputs.clone();
        inputs.insert(RELEASE.to_owned(), release);
        Ok::<_, KernelError>(inputs)
    })?;
    Kernel::from_artefact(&artefact)
}

/// Returns the tuned kernel that was built last, if any.
pub(super) fn prepared(
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Option<Kernel>, KernelError> {
    let found = cache.find(&key(), progress, |_| true)?;
    found
        .map(|artefact| Kernel::from_artefact(&artefact))
        .transpose()
}

/// Which configuration, but not which source or compiler: the newest one made this way is used.
pub(super) fn key() -> Key {
    let recipe = format!("{FORMAT} {}", Digest::of_bytes(config::FRAGMENT.as_bytes()));
    let digest = Digest::of_bytes(recipe.as_bytes()).short();
    Key::new(ArtefactKind::Kernel, format!("tuned-{digest}"))
}

fn inputs(candidate: &Candidate, compiler: &str) -> Inputs {
    let source_digest = candidate.sha256.map(|digest| digest.to_string());
    [
        (PACKAGE, candidate.to_string()),
        (SOURCE_DIGEST, source_digest.unwrap_or_default()),
        (COMPILER, compiler.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Builds the kernel into the staging directory's output and returns its release.
fn build(
    staging: &Staging,
    candidate: &Candidate,
    progress: &dyn Progress,
) -> Result<String, KernelError> {
    let work = staging.work();
    let download = format!("downloading {}", candidate.package);
    let deb = step(progress, &download, candidate.size_bytes, || {
        package::download(candidate, &work, progress)
    })?;
    let tree = step(progress, "unpacking the kernel's source", None, || {
        source::unpack(&deb, &work)
    })?;
    step(progress, "configuring the kernel", None, || {
        configure(&tree, &work, candidate)
    })?;
    let jobs = available_parallelism().map_or(1, NonZeroUsize::get);
    let compiling = format!("compiling the kernel, which takes minutes ({jobs} jobs)");
    step(progress, &compiling, None, || {
        compile(&tree, jobs, candidate, progress)
    })?;
    finish(&tree, &staging.output())
}

/// Makes the configuration, and checks that the source took all that we ask for.
fn configure(tree: &Path, work: &Path, candidate: &Candidate) -> Result<(), KernelError> {
    let fragment = work.join("kernel.config");
    fs::write(&fragment, config::FRAGMENT)
        .map_err(|source| io_error("write", &fragment, source))?;
    make(tree)?
        .env("KCONFIG_ALLCONFIG", &fragment)
        .args(["allnoconfig"])
        .output()?;
    let path = tree.join(".config");
    let config = fs::read_to_string(&path).map_err(|source| io_error("read", &path, source))?;
    let lines = config::not_taken(config::FRAGMENT, &config);
    if lines.is_empty() {
        return Ok(());
    }
    Err(KernelError::Config {
        package: candidate.to_string(),
        lines: lines.into_iter().map(str::to_owned).collect(),
    })
}

fn compile(
    tree: &Path,
    jobs: usize,
    candidate: &Candidate,
    progress: &dyn Progress,
) -> Result<(), KernelError> {
    // What `uname -v` says instead of a time.
    let version = format!("Debian {}", candidate.version);
    make(tree)?
        .env("KBUILD_BUILD_VERSION_TIMESTAMP", version)
        .args([format!("-j{jobs}"), "vmlinux".to_owned()])
        .read_stdout()
        .run(&|_| {}, |running| {
            let stdout = running.stdout.take().expect("stdout was asked for");
            count_objects(BufReader::new(stdout), progress)
                .map_err(|source| running.error("read from", source))?;
            Ok::<(), CommandError>(())
        })?;
    Ok(())
}

/// Tells how many objects make says that it has made, until it says no more.
fn count_objects(mut output: impl io::BufRead, progress: &dyn Progress) -> io::Result<()> {
    let mut count = 0u32;
    let mut line = Vec::new();
    loop {
        line.clear();
        if output.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        // As in "  CC      init/main.o" (Linux scripts/Kbuild.include, `quiet_cmd_…`).
        if line.starts_with(b"  CC ") || line.starts_with(b"  AS ") {
            count += 1;
            progress.detail(&format!("{count} files"));
        }
    }
}

/// Prepares a run of make in `tree`.
fn make(tree: &Path) -> Result<Invocation, CommandError> {
    let make = Invocation::guarded(MAKE, tree)?
        .without_environment()
        .args(VARIABLES);
    Ok(ENVIRONMENT
        .iter()
        .fold(make, |make, (name, value)| make.env(name, value)))
}

/// Puts what was built into `output`, without the symbols that only debuggers read, and returns the
/// kernel's release.
fn finish(tree: &Path, output: &Path) -> Result<String, KernelError> {
    let image = output.join(IMAGE_FILE);
    Invocation::new(STRIP, tree)?
        .args(["--strip-all".as_ref(), "-o".as_ref(), image.as_os_str()])
        .args(["vmlinux"])
        .output()?;
    let bytes = fs::read(&image).map_err(|source| io_error("read", &image, source))?;
    boot_image::check_kernel(&bytes)?;
    let (from, to) = (tree.join(".config"), output.join(CONFIG_FILE));
    fs::copy(&from, &to).map_err(|source| io_error("copy", &from, source))?;
    let path = tree.join("include/config/kernel.release");
    let release = fs::read_to_string(&path).map_err(|source| io_error("read", &path, source))?;
    Ok(release.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps the last detail.
    #[derive(Default)]
    struct Last(Mutex<String>);

    impl Progress for Last {
        fn started(&self, _step: &str, _total: Option<u64>) {}
        fn advanced(&self, _done: u64) {}
        fn finished(&self, _step: &str) {}
        fn warning(&self, _message: &str) {}
        fn detail(&self, detail: &str) {
            detail.clone_into(&mut self.0.lock().unwrap());
        }
    }

    #[test]
    fn objects_are_counted_and_other_lines_are_not() {
        let said = "  HOSTCC  scripts/basic/fixdep\n  CC      init/main.o\n\
                    make[1]: nothing\n  AS      arch/x86/kernel/head_64.o\n  LD      vmlinux\n";
        let progress = Last::default();
        count_objects(said.as_bytes(), &progress).unwrap();
        assert_eq!(*progress.0.lock().unwrap(), "2 files");
    }

    #[test]
    fn the_caller_s_environment_does_not_reach_the_build() {
        let directory = tempfile::tempdir().unwrap();
        let makefile = "all:\n\t@env > seen\n\t@echo $(ARCH) >> seen\n";
        fs::write(directory.path().join("Makefile"), makefile).unwrap();
        make(directory.path()).unwrap().output().unwrap();
        let seen = fs::read_to_string(directory.path().join("seen")).unwrap();
        let names: Vec<&str> = seen
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        // cargo sets it for every test.
        assert!(!names.contains(&"CARGO_MANIFEST_DIR"), "{seen}");
        assert!(seen.contains("KBUILD_BUILD_HOST=smolvm\n"), "{seen}");
        assert!(seen.ends_with("x86_64\n"), "{seen}");
    }
}
