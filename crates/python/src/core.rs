//! `Core`: one sandbox, shared by all handles on it that belong to this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smolvm_image::NoProgress;
use smolvm_sandbox::{
    ErrorKind, Installation, Sandbox as Library, SandboxId, SandboxInfo, SandboxState,
};

use crate::command::Patience;
use crate::failure::Failure;

/// How long a supervisor may take to say how its machine is.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// One sandbox. Shared by all handles on it that belong to this process.
pub(crate) struct Core {
    installation: Arc<Installation>,
    library: Arc<Library>,
    has_started: AtomicBool,
}

impl Core {
    pub(crate) const fn new(installation: Arc<Installation>, library: Arc<Library>) -> Self {
        Self {
            installation,
            library,
            has_started: AtomicBool::new(false),
        }
    }

    pub(crate) fn installation(&self) -> &Installation {
        &self.installation
    }

    pub(crate) fn key(&self) -> (PathBuf, SandboxId) {
        (
            self.installation.data_dir.clone(),
            self.library.id().clone(),
        )
    }

    pub(crate) const fn access(&self) -> &Arc<Library> {
        &self.library
    }

    /// Starts the sandbox unless this process knows that it has been started.
    pub(crate) async fn ensure_started(&self) -> Result<(), Failure> {
        if self.has_started.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.start(None).await
    }

    /// Starts the sandbox; the guest has `limit` to come up, of so many seconds.
    pub(crate) async fn start(&self, limit: Option<Patience>) -> Result<(), Failure> {
        let duration = limit.map(|(_, duration)| duration);
        self.library
            .start_within(Arc::new(NoProgress), duration)
            .await
            .map_err(|error| match limit {
                Some((seconds, _)) if error.kind() == ErrorKind::Timeout => {
                    Failure::StartTimedOut {
                        seconds,
                        source: Box::new(error),
                    }
                }
                _ => error.into(),
            })?;
        self.has_started.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Returns what is known of the sandbox, and the process ID of its VMM while it has one.
    pub(crate) async fn full_info(&self) -> Result<(SandboxInfo, Option<u32>), Failure> {
        let known = self.library.info()?;
        let pid = match known.state {
            SandboxState::Running | SandboxState::Paused => {
                // One that has just ended has none.
                tokio::time::timeout(STATUS_PATIENCE, self.library.status())
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .and_then(|status| status.vmm_pid)
            }
            _ => None,
        };
        Ok((known, pid))
    }

    pub(crate) async fn stop(&self, grace: Duration) -> Result<(), Failure> {
        self.has_started.store(false, Ordering::Relaxed);
        Ok(self.library.stop(grace).await?)
    }

    /// Lets go of a running sandbox; one that does not run still ends with this process. Returns
    /// whether it was let go.
    pub(crate) async fn close(&self) -> Result<bool, Failure> {
        let is_live = match self.library.info() {
            Ok(info) => matches!(info.state, SandboxState::Running | SandboxState::Paused),
            // Gone already: there is nothing to let go of.
            Err(_) => false,
        };
        if is_live {
            self.library.release().await?;
        }
        Ok(is_live)
    }

    pub(crate) async fn delete(&self) -> Result<(), Failure> {
        self.has_started.store(false, Ordering::Relaxed);
        Ok(self.library.delete().await?)
    }

    /// Lets go, in a child made by fork(2), of what belongs to the parent.
    pub(crate) fn forget_after_fork(&self) {
        self.library.forget_after_fork();
    }
}
