//! The library under the command, for what the command has no word for.

use std::path::PathBuf;
use std::sync::Arc;

use smolvm_image::NoProgress;
use smolvm_sandbox::message::{Command, Exec};
use smolvm_sandbox::{
    CreateError, EndReason, Installation, Lifetime, Output, Sandbox, SandboxSpec,
};

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

    /// Creates the sandbox `name` with what `change` makes of the defaults, and starts it.
    ///
    /// # Panics
    ///
    /// When it cannot be.
    pub async fn start_as(&self, name: &str, change: impl FnOnce(&mut SandboxSpec)) -> Sandbox {
        let mut spec = SandboxSpec::new(name.parse().expect("a name"), Lifetime::Persistent);
        change(&mut spec);
        drop(self.create(spec).await.expect("created"));
        let _started = self.smolvm(&["start", name]).ok();
        self.open(name)
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

/// What a command has printed, and how it ended.
#[derive(Debug)]
pub struct Printed {
    /// Standard output.
    pub stdout: String,
    /// Error output.
    pub stderr: String,
    /// How it ended.
    pub reason: EndReason,
}

/// Returns the request for a line of shell.
#[must_use]
pub fn shell(script: &str) -> Exec {
    Exec::of(Command::Shell {
        script: script.as_bytes().to_vec().into(),
        login: false,
    })
}

/// Runs a command to its end.
///
/// # Panics
///
/// When it cannot be run.
pub async fn run(sandbox: &Sandbox, exec: Exec) -> Printed {
    let mut process = sandbox.exec(exec).await.expect("started");
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match process.output.next().await.expect("output") {
            Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            Output::End(end) => {
                return Printed {
                    stdout: String::from_utf8_lossy(&stdout).into_owned(),
                    stderr: String::from_utf8_lossy(&stderr).into_owned(),
                    reason: end.reason,
                };
            }
        }
    }
}
