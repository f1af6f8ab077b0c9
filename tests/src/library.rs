//! The library under the command, for what the command has no word for.

use std::path::PathBuf;
use std::sync::Arc;

use smolvm_image::NoProgress;
use smolvm_sandbox::{CreateError, Installation, Sandbox, SandboxSpec};

use crate::{Host, binary, cache_dir};

impl Host {
    /// Returns where everything is on this host.
    #[must_use]
    pub fn installation(&self) -> Arc<Installation> {
        Arc::new(Installation {
            data_dir: self.data_dir(),
            cache_dir: cache_dir(),
            smolvm: binary("smolvm"),
            vmm: binary("smolvm-vmm"),
            agent: binary("smolvm-agent"),
            qemu: Some(PathBuf::from("/usr/bin/qemu-system-x86_64")),
        })
    }

    /// Creates the sandbox that `spec` describes.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::create`].
    pub async fn create(&self, spec: SandboxSpec) -> Result<Sandbox, CreateError> {
        Sandbox::create(self.installation(), spec, Arc::new(NoProgress)).await
    }

    /// Returns a handle on the sandbox `name`.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn open(&self, name: &str) -> Sandbox {
        let id = name.parse().expect("a name");
        Sandbox::open(self.installation(), id).expect("it exists")
    }
}
