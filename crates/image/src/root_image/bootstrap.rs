//! Running mmdebstrap and sqfstar as one pipeline.
//!
//! ```text
//!  mmdebstrap ─stdout─> rewrite (this process) ─stdin─> sqfstar ──> image
//!      └ stderr: "I: installing …" becomes a step of the progress
//! ```
//!
//! mmdebstrap runs as root where we are root, else in a user namespace of its own. In both cases
//! what it mounts is in a mount namespace that ends with it, so even a killed build leaves no
//! mount; and it is told to stop, and then deletes its tree, when this process dies.

use std::io::BufWriter;
use std::path::Path;
use std::process::ChildStdout;
use std::sync::Mutex;

use crate::command::{Invocation, Program};
use crate::progress::Progress;
use crate::root_image::RootImageError;
use crate::root_image::recipe::Recipe;
use crate::root_image::rewrite::{ExtraFile, rewrite};
use crate::root_image::sources::Sources;

pub(crate) const MMDEBSTRAP: Program = Program {
    name: "mmdebstrap",
    package: "mmdebstrap",
};
pub(crate) const SQFSTAR: Program = Program {
    name: "sqfstar",
    package: "squashfs-tools",
};
const UNSHARE: Program = Program {
    name: "unshare",
    package: "util-linux",
};
/// mmdebstrap's unshare mode maps a range of user ids with it.
pub(crate) const NEWUIDMAP: Program = Program {
    name: "newuidmap",
    package: "uidmap",
};

/// Where mmdebstrap unpacks when it runs in a user namespace: the cache is closed to the mapped
/// users, and /tmp is often too small a file system.
const SHARED_TEMPORARY: &str = "/var/tmp";

/// Size of the buffer before sqfstar's pipe: headers of 512 bytes need not be one write each.
const PIPE_BYTES: usize = 256 * 1024;

/// How the image is written (sqfstar(1)).
///
/// * `-comp lz4`: docs/decisions/0003-root-image-writer.md has the measurements.
/// * `-root-…`: sqfstar 4.5 ignores the stream's entry for the root directory itself.
#[rustfmt::skip]
const SQFSTAR_OPTIONS: &[&str] = &[
    "-quiet", "-no-progress", "-comp", "lz4",
    "-root-mode", "0755", "-root-uid", "0", "-root-gid", "0", "-root-time", "1735689600",
];

/// Sets root's password in the tree. The hash comes through the environment: command lines can be
/// read by everybody.
const PASSWORD_VARIABLE: &str = "SMOLVM_PASSWORD_LINE";
const PASSWORD_HOOK: &str =
    "--customize-hook=printf '%s\\n' \"$SMOLVM_PASSWORD_LINE\" | chroot \"$1\" chpasswd -e";

/// Builds the image of `recipe` into the file `image`.
pub(super) fn build(
    recipe: &Recipe,
    sources: &Sources,
    work: &Path,
    image: &Path,
    progress: &dyn Progress,
) -> Result<(), RootImageError> {
    // Asked first: nobody wants to hear of it after the download.
    SQFSTAR.find()?;
    let consume = |tree| write_image(recipe, &sources.for_image(), tree, image, progress);
    run(recipe, &Wishes::default(), sources, work, progress, consume)
}

/// What whoever asks for a tree adds to its recipe.
#[derive(Default)]
pub(crate) struct Wishes<'a> {
    /// Debian packages.
    pub(crate) packages: &'a [String],
    /// Hash of root's password, as crypt(5) writes it.
    pub(crate) password_hash: Option<&'a str>,
}

/// Builds the tree of `recipe` with `wishes` and passes it to `consume` as a tar stream.
pub(crate) fn run(
    recipe: &Recipe,
    wishes: &Wishes<'_>,
    sources: &Sources,
    work: &Path,
    progress: &dyn Progress,
    consume: impl FnOnce(ChildStdout) -> Result<(), RootImageError>,
) -> Result<(), RootImageError> {
    let steps = Steps {
        progress,
        current: Mutex::new(None),
    };
    let invocation = mmdebstrap(recipe, wishes, sources, work)?;
    invocation.run(&|line| steps.hear(line), |source| {
        consume(source.stdout.take().expect("stdout was asked for"))
    })?;
    steps.finish();
    Ok(())
}

/// Writes the tree in `tree`, as the recipe changes it, into the file `image`.
pub(super) fn write_image(
    recipe: &Recipe,
    sources_list: &str,
    tree: impl std::io::Read,
    image: &Path,
    progress: &dyn Progress,
) -> Result<(), RootImageError> {
    let directory = image.parent().unwrap_or(image);
    let extra = [ExtraFile {
        path: "etc/apt/sources.list",
        mode: 0o644,
        content: Some(sources_list),
    }];
    Invocation::guarded(SQFSTAR, directory)?
        .args(SQFSTAR_OPTIONS)
        .args([image.as_os_str()])
        .feed_stdin()
        .run(&|_| {}, |target| {
            let stdin = target.stdin.take().expect("stdin was asked for");
            let output = BufWriter::with_capacity(PIPE_BYTES, stdin);
            rewrite(tree, output, recipe, &extra, progress)?;
            Ok(())
        })
}

fn mmdebstrap(
    recipe: &Recipe,
    wishes: &Wishes<'_>,
    sources: &Sources,
    work: &Path,
) -> Result<Invocation, RootImageError> {
    let is_root = rustix::process::geteuid().is_root();
    let temporary = if is_root {
        work
    } else {
        Path::new(SHARED_TEMPORARY)
    };
    if !is_root {
        NEWUIDMAP.find()?;
    }
    let invocation = if is_root && can_unshare_mounts(work) {
        let own_mounts = ["--mount", "--propagation", "slave", "--"];
        let path = MMDEBSTRAP.find()?;
        Invocation::guarded(UNSHARE, temporary)?
            .named(MMDEBSTRAP)
            .args(own_mounts)
            .args([path.as_os_str()])
    } else {
        Invocation::guarded(MMDEBSTRAP, temporary)?
    };
    let mode = if is_root {
        "--mode=root"
    } else {
        "--mode=unshare"
    };
    let options = [
        "--variant=minbase",
        "--format=tar",
        "--aptopt=Acquire::Languages \"none\";",
    ];
    let wished = wishes.packages.iter().map(String::as_str);
    let packages: Vec<&str> = recipe.packages.iter().copied().chain(wished).collect();
    let include = format!("--include={}", packages.join(","));
    let password_hook = wishes.password_hash.map(|_| PASSWORD_HOOK);
    let hooks = recipe
        .hooks
        .iter()
        .map(|command| format!("--customize-hook={command}"));
    let password_line = format!("root:{}", wishes.password_hash.unwrap_or_default());
    let excludes = recipe
        .excluded_paths
        .iter()
        .map(|path| format!("--dpkgopt=path-exclude={path}"));
    let includes = recipe
        .included_paths
        .iter()
        .map(|path| format!("--dpkgopt=path-include={path}"));
    let proxies = sources
        .apt_options
        .iter()
        .map(|option| format!("--aptopt={option}"));
    Ok(invocation
        .env("TMPDIR", temporary)
        .env(PASSWORD_VARIABLE, password_line)
        .args([mode])
        .args(options)
        .args(excludes)
        .args(includes)
        .args(proxies)
        .args(hooks)
        .args(password_hook)
        .args([include])
        .args([sources.suite.as_str(), "-"])
        .args(sources.for_build())
        .read_stdout())
}

/// Says whether we may have a mount namespace; root of a container often may not, and then
/// mmdebstrap does without mounts.
fn can_unshare_mounts(directory: &Path) -> bool {
    let trial = Invocation::new(UNSHARE, directory)
        .map(|unshare| unshare.args(["--mount", "--propagation", "slave", "--", "true"]));
    trial.is_ok_and(|trial| trial.output().is_ok())
}

/// Turns what mmdebstrap says about itself into steps.
struct Steps<'a> {
    progress: &'a dyn Progress,
    /// The step that has started. The lock is held while `progress` is told, so that steps
    /// cannot interleave; only these two functions take it.
    current: Mutex<Option<String>>,
}

impl Steps<'_> {
    fn hear(&self, line: &str) {
        // "I: success in 31.4 seconds" ends the last step, it is none.
        let step = line
            .strip_prefix("I: ")
            .and_then(|text| text.strip_suffix("..."));
        // This one names a path that means nothing to anybody else.
        let step = step.map(|step| match step.starts_with("removing tempdir") {
            true => "removing temporary files",
            false => step,
        });
        if let Some(step) = step.filter(|step| !step.starts_with("finding out")) {
            let mut current = self
                .current
                .lock()
                .unwrap_or_else(|broken| broken.into_inner());
            if let Some(last) = current.replace(step.to_owned()) {
                self.progress.finished(&last);
            }
            self.progress.started(step, None);
        }
    }

    fn finish(&self) {
        let mut current = self
            .current
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        if let Some(last) = current.take() {
            self.progress.finished(&last);
        }
    }
}
