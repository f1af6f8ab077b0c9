//! Sandboxes: what is asked for, how it lives, what it runs on. The library that the command line
//! and every other front end embed.
//!
//! ```text
//!   caller:     [`SandboxSpec`] -> [`Sandbox::create`] -> [`Sandbox::start`] -> exec, files, ...
//!                                      |                       |
//!                                   [`Store`]            plan (kernel, images, accelerator)
//!                                                              |  plan.json
//!   supervisor, one process per sandbox: [`supervisor`] -> [`engine`] -> VMM in its `jail`
//! ```
//!
//! The library reads neither the environment nor `$HOME`: an [`Installation`] says where
//! everything is. It prints nothing; it logs through `tracing`.

#![deny(unsafe_code)]

pub mod accelerator;
mod access;
mod bounded_log;
mod browser;
mod custom;
mod dial;
mod disk;
pub mod engine;
mod env;
mod exec;
mod files;
mod installation;
mod jail;
mod jobs;
mod kind;
mod log_files;
mod multiplexer;
pub mod network;
mod network_log;
mod peers;
mod plan;
mod port_forwards;
mod private_networks;
mod process;
mod record;
mod sandbox;
mod secrets;
mod socket;
mod spec;
mod state;
mod store;
pub mod supervisor;
#[expect(unsafe_code, reason = "takes over descriptors; the module says how")]
pub mod sys;
pub mod template;
mod text;
mod tree;

pub use access::AccessError;
pub use browser::{
    ArtifactError, AskedBrowser, BrowserConfig, BrowserConfigError, BrowserError, BrowserInfo,
    BrowserMode, BrowserPorts, BrowserSession, BrowserStatus, Button, Chord, Computer,
    DEFAULT_BROWSER_DISK_MIB, DEFAULT_BROWSER_MEMORY_MIB, DEFAULT_BROWSER_VCPUS,
    DEFAULT_TIMEOUT_MINUTES, DEFAULT_VIEWPORT, Dialog, ImageFormat, InputError, PageError,
    reap_browsers,
};
pub use custom::{CustomBootError, MAX_BOOT_ARGS_BYTES, MAX_EXTRA_DRIVES, MAX_INITRAMFS_BYTES};
pub use dial::GuestConnection;
pub use env::{EnvError, check_env_key};
pub use exec::{End, EndReason, ExecError, Output, Process, ProcessInput, ProcessOutput};
pub use files::{DirectoryEntry, FileReader, FileWriter};
pub use installation::Installation;
pub use jobs::{AttachedJob, JobEvent, JobOutput, random_job_name};
pub use kind::ErrorKind;
pub use log_files::{LogError, LogFiles};
pub use network::NetworkError;
pub use network_log::NetworkLog;
pub use plan::{PlanError, PrepareTemplateError, SupervisorPlan, prepare_template};
pub use port_forwards::{AskedForward, PortForwardError, PortForwards};
pub use private_networks::{NetworkMembers, NetworkName, Networks, NetworksError};
pub use process::{LOCK_FD, SUPERVISE_COMMAND, try_namespaces};
pub use record::RecordError;
pub use sandbox::{CreateError, Sandbox, StartError, StartReport, Started};
pub use secrets::{MAX_SECRETS, SecretGrant, SecretsError};
pub use smolvm_jail::{FileRestriction, file_restriction};
pub use smolvm_network::{
    Action as RuleAction, Cause as NetworkCause, Event as NetworkEvent, HttpRule, HttpRuleError,
    Mode, NameError, NamePattern, NetworkPolicy, PolicyError, PolicyTextError,
    Record as NetworkRecord, Rule, RuleError, SecretError, SecretSpec, SettingsError,
    Verdict as NetworkVerdict, from_internet_settings,
};
pub use smolvm_protocol::{control, message, probe};
pub use spec::{
    AtEnd, CustomBoot, DEFAULT_DISK, DEFAULT_MEMORY, DEFAULT_VCPUS, DiskMib, EngineChoice,
    Lifetime, MemoryMib, SandboxId, SandboxSpec, SpecError, VcpuCount,
};
pub use state::{SandboxState, Transition};
pub use store::{Reaped, SandboxInfo, Store, StoreError};
pub use tree::CopyError;
