//! Where the workspace, its programs and its build results are.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The workspace that the running task works on.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    cargo: OsString,
}

impl Workspace {
    /// Locates the workspace as cargo names it to the program it runs.
    pub(crate) fn locate() -> Self {
        // Set by `cargo run`; the value of the build serves when the program is started by hand.
        let manifest_directory = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_directory
            .parent()
            .expect("this package lies in a directory of the workspace")
            .to_owned();
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        Self {
            target: root.join(target),
            root,
            cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        }
    }

    /// Root directory of the workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of all build results.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Directory of the programs that `build` makes.
    pub(crate) fn release(&self) -> PathBuf {
        self.target.join("release")
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo(&self) -> &OsString {
        &self.cargo
    }
}
