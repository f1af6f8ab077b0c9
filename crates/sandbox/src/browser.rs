//! Browser sessions: Chromium in a sandbox of its own, that programs drive and people can watch.
//!
//! ```text
//!   host                                        guest, image `browser`
//!   BrowserSession --start--> sandbox --job---> launcher --> Chromium, and in live mode a display
//!        |  record            forwards, for the owner alone --> CDP 9222, noVNC 6080, VNC 5900
//!        |
//!        `--stop, or the session's time is over--> at end: launcher ends, artifacts are packed
//! ```
//!
//! A session is a leased sandbox and one [`record`] beside it; the sandbox's life is the session's.
//! Whoever goes after a start that succeeded may let go of it ([`BrowserSession::release`]); what
//! is not let go of ends with its creator. A profile that is kept is the disk of the sandbox, which
//! stays when the sandbox is deleted; so two sessions cannot have it at a time.
//!
//! [`config`] has the rules, [`session`] the life cycle, [`info`] what is known of a session,
//! [`launcher`] what the guest is told, [`artifacts`] what a session leaves, [`cdp`] the connection
//! to a page, [`screenshots`] pictures of it, [`computer`] mouse and keyboard.

mod artifacts;
mod cdp;
mod computer;
mod config;
mod dialogs;
mod hand;
mod info;
mod input;
mod keys;
mod launcher;
mod record;
mod screenshots;
mod session;

pub use artifacts::ArtifactError;
pub use cdp::{Dialog, PageError};
pub use computer::Computer;
pub use config::{
    AskedBrowser, BrowserConfig, BrowserConfigError, BrowserMode, DEFAULT_BROWSER_DISK_MIB,
    DEFAULT_BROWSER_MEMORY_MIB, DEFAULT_BROWSER_VCPUS, DEFAULT_TIMEOUT_MINUTES, DEFAULT_VIEWPORT,
};
pub use info::{BrowserInfo, BrowserStatus};
pub use input::{Button, InputError};
pub use keys::Chord;
pub use record::BrowserPorts;
pub use screenshots::ImageFormat;
pub use session::{BrowserError, BrowserSession, reap_browsers};
