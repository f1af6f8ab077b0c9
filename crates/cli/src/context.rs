//! What every command works with: the settings, and the ways into the library.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use smolvm_sandbox::{
    AccessError, Installation, Sandbox, SandboxId, SandboxInfo, SandboxState, Store, StoreError,
    reap_browsers,
};

use crate::activity::Activity;
use crate::failure::Failure;
use crate::output::{self, Colour};
use crate::settings::Settings;

/// Longest time to wait for a sandbox to be gone that another process is still starting.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(15);

/// Settings and library of one invocation.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) installation: Arc<Installation>,
}

impl Context {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            installation: Arc::new(settings.installation.clone()),
            settings,
        }
    }

    pub(crate) fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.installation.data_dir)?)
    }

    /// Removes what dead processes have left, as every command does first.
    pub(crate) fn reap(&self) -> Result<(), Failure> {
        let reaped = self.store()?.reap()?;
        for name in &reaped.failed {
            tracing::info!(sandbox = %name, "supervisor had died");
        }
        reap_browsers(&self.installation.data_dir)?;
        Ok(())
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> Result<Sandbox, Failure> {
        Ok(Sandbox::open(self.installation.clone(), id.clone())?)
    }

    /// Shows `label` while something takes long.
    pub(crate) fn activity(&self, label: &str) -> Activity {
        Activity::start(label, self.settings.has_stderr_colour)
    }

    /// Colours `text` where standard output shows colours.
    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        output::paint(self.settings.has_stdout_colour, colour, text)
    }

    /// Makes sure that a sandbox is gone, whatever it is doing.
    pub(crate) async fn remove(&self, id: &SandboxId) -> Result<(), Failure> {
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        loop {
            let outcome = match Sandbox::open(self.installation.clone(), id.clone()) {
                Ok(sandbox) => sandbox.delete().await,
                Err(error) => Err(error.into()),
            };
            match outcome {
                Ok(()) | Err(AccessError::Store(StoreError::NotFound { .. })) => return Ok(()),
                // Its supervisor holds the lock and does not listen yet.
                Err(AccessError::Store(StoreError::Busy { .. })) if Instant::now() < deadline => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns what programs are told of a sandbox.
    pub(crate) async fn vm_json(&self, info: &SandboxInfo) -> Value {
        let pid = match self.sandbox(&info.spec.id) {
            Ok(sandbox) if info.state == SandboxState::Running => {
                let status = sandbox.status().await.ok();
                status.and_then(|status| status.vmm_pid)
            }
            _ => None,
        };
        json!({
            "name": info.spec.id,
            "status": info.state,
            "reason": info.reason,
            "os": info.spec.image,
            "image": info.spec.image,
            "backend": info.engine.as_deref().unwrap_or(info.spec.engine.as_str()),
            "lifetime": info.spec.lifetime,
            "labels": info.spec.labels,
            "port_forwards": info.spec.port_forwards,
            "idle_timeout_ms": info.spec.idle_timeout_ms,
            "max_lifetime_ms": info.spec.max_lifetime_ms,
            "cpus": info.spec.vcpus,
            "memory_mib": info.spec.memory,
            "disk_size_mib": info.spec.disk,
            "disk_used_bytes": info.disk_used_bytes,
            "created_unix_ms": info.created_unix_ms,
            "since_unix_ms": info.since_unix_ms,
            "pid": pid,
            "ip_address": null,
            "ssh_port": null,
        })
    }
}

/// Returns the time since `unix_ms`, none for a time in the future.
pub(crate) fn elapsed_since(unix_ms: u64) -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH + Duration::from_millis(unix_ms))
        .unwrap_or_default()
}

/// Returns the colour of a state.
pub(crate) const fn colour_of(state: SandboxState) -> Colour {
    match state {
        SandboxState::Running => Colour::Green,
        SandboxState::Starting | SandboxState::Paused | SandboxState::Stopping => Colour::Yellow,
        SandboxState::Error => Colour::Red,
        SandboxState::Created | SandboxState::Stopped => Colour::Dim,
    }
}
