//! What is known of a browser session, and where it is in its life.
//!
//! That follows from three things, each with its own owner: the session's record, the state of its
//! sandbox, and what its launcher says. Nothing here is kept.

use std::path::PathBuf;

use super::config::BrowserConfig;
use super::launcher::Report;
use super::record::{BrowserPorts, BrowserRecord};
use crate::{SandboxId, SandboxInfo, SandboxState};

/// Characters of the token that are the VNC password: VNC takes no more (RFC 6143 §7.2.2).
const VNC_PASSWORD_LENGTH: usize = 8;

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrowserStatus {
    /// Its sandbox is there and was never started.
    Created,
    /// The guest boots, or the browser does.
    Starting,
    /// The browser takes commands.
    Ready,
    /// It is being ended.
    Stopping,
    /// It could not be started, or has ended by itself; it can only be stopped.
    Error,
}

impl BrowserStatus {
    /// Every status, in the order in which they follow each other.
    pub const ALL: [Self; 5] = [
        Self::Created,
        Self::Starting,
        Self::Ready,
        Self::Stopping,
        Self::Error,
    ];

    /// Returns the status's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Error => "error",
        }
    }
}

/// What is known of a session.
#[derive(Clone, Debug)]
pub struct BrowserInfo {
    /// Its name.
    pub session_id: SandboxId,
    /// Its sandbox.
    pub vm_id: SandboxId,
    /// Where it is in its life.
    pub status: BrowserStatus,
    /// Why, where that is not plain.
    pub reason: Option<String>,
    /// What it was asked to be.
    pub config: BrowserConfig,
    /// Where it is reached, once it is ready.
    pub ports: Option<BrowserPorts>,
    /// When it ends at the latest, in milliseconds since the Unix epoch.
    pub expires_at_unix_ms: u64,
    /// Where its artifacts are, or will be.
    pub artifacts_dir: PathBuf,
    pub(super) token: String,
}

impl BrowserInfo {
    /// Returns where programs drive the browser.
    #[must_use]
    pub fn cdp_url(&self) -> Option<String> {
        let port = self.ports?.cdp;
        Some(format!("http://127.0.0.1:{port}"))
    }

    /// Returns where people watch and use the browser, in live mode. Whoever has it can.
    #[must_use]
    pub fn viewer_url(&self) -> Option<String> {
        let port = self.ports?.viewer?;
        let (token, password) = (&self.token, self.vnc_password());
        Some(format!(
            "http://127.0.0.1:{port}/vnc.html?autoconnect=1&resize=scale\
             &path=websockify%3Ftoken%3D{token}&password={password}"
        ))
    }

    /// Returns where VNC clients find the display, in live mode (RFC 7869). Whoever has it can.
    #[must_use]
    pub fn display_url(&self) -> Option<String> {
        let port = self.ports?.vnc?;
        let password = self.vnc_password();
        Some(format!("vnc://127.0.0.1:{port}?VncPassword={password}"))
    }

    fn vnc_password(&self) -> &str {
        self.token.get(..VNC_PASSWORD_LENGTH).unwrap_or(&self.token)
    }
}

/// Says whether a session's launcher can be asked.
pub(super) fn has_launcher(record: &BrowserRecord, sandbox: Option<&SandboxInfo>) -> bool {
    record.ports.is_some() && sandbox.is_some_and(|info| info.state == SandboxState::Running)
}

/// Says where a session is in its life, and why where that is not plain.
pub(super) fn status(
    record: &BrowserRecord,
    sandbox: Option<&SandboxInfo>,
    launcher: Report,
) -> (BrowserStatus, Option<String>) {
    let Some(sandbox) = sandbox else {
        let ended = || "its sandbox has ended".to_owned();
        let reason = record.failure.clone().unwrap_or_else(ended);
        return (BrowserStatus::Error, Some(reason));
    };
    let state_name = || Some(format!("its sandbox is {}", sandbox.state.as_str()));
    match sandbox.state {
        _ if record.failure.is_some() => (BrowserStatus::Error, record.failure.clone()),
        SandboxState::Created => (BrowserStatus::Created, None),
        SandboxState::Starting => (BrowserStatus::Starting, None),
        SandboxState::Stopping => (BrowserStatus::Stopping, None),
        SandboxState::Paused | SandboxState::Stopped | SandboxState::Error => {
            let reason = sandbox.reason.clone().or_else(state_name);
            (BrowserStatus::Error, reason)
        }
        SandboxState::Running if record.ports.is_none() => (BrowserStatus::Starting, None),
        SandboxState::Running => {
            let told = (!launcher.notes.is_empty()).then(|| launcher.notes.join("; "));
            match launcher.exit {
                None if launcher.is_restarting() => (BrowserStatus::Starting, told),
                None => (BrowserStatus::Ready, told),
                // It ends like that only when it is told to.
                Some(0) => (BrowserStatus::Stopping, None),
                Some(_) => {
                    let untold = || "its browser has ended; its logs say why".to_owned();
                    (BrowserStatus::Error, Some(told.unwrap_or_else(untold)))
                }
            }
        }
    }
}
