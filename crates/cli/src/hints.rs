//! What to do about each error: hints, stable codes, and the exit codes that shells give.
//!
//! The library says what went wrong; only here is said what a person at a terminal can do.

use std::error::Error;

use smolvm_image::{
    CacheError, CommandError, InitramfsError, KernelChoice, KernelChoiceError, KernelError,
    OverlayError, RootImageError,
};
use smolvm_sandbox::accelerator::AcceleratorError;
use smolvm_sandbox::control::{StartFailure, StartFailureKind};
use smolvm_sandbox::message::{Refusal, RefusalCode};
use smolvm_sandbox::{
    AccessError, ArtifactError, BrowserConfigError, BrowserError, CopyError, CreateError, EnvError,
    ErrorKind, ExecError, LogError, NetworkError, NetworksError, PlanError, PortForwardError,
    SandboxState, SecretsError, SpecError, StartError, StoreError,
};

use crate::failure::Failure;

/// Exit code of a command that exists and cannot be executed (POSIX.1-2017 XCU §2.8.2).
const NOT_EXECUTABLE: u8 = 126;

/// Exit code of a command that does not exist (as above).
const NOT_FOUND: u8 = 127;

/// Command that installs QEMU on Debian and its relatives.
pub(crate) const INSTALL_QEMU: &str = "sudo apt-get install qemu-system-x86";

/// What can be said of an error beyond its own words.
#[derive(Debug, Default)]
pub(crate) struct Advice {
    pub(crate) code: Option<&'static str>,
    pub(crate) hints: Vec<String>,
    pub(crate) is_missing_dependency: bool,
    pub(crate) exit_code: Option<u8>,
}

impl Advice {
    fn none() -> Self {
        Self::default()
    }

    fn code(code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..Self::default()
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    fn missing(code: &'static str, install: &str) -> Self {
        Self {
            is_missing_dependency: true,
            ..Self::code(code).hint(format!("install it: {install}"))
        }
    }

    fn exit_code(mut self, exit_code: u8) -> Self {
        self.exit_code = Some(exit_code);
        self
    }
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        Self::of(&error, error.kind(), Advice::none())
    }
}

impl From<PortForwardError> for Failure {
    fn from(error: PortForwardError) -> Self {
        Self::of(&error, error.kind(), Advice::code("port_forwards"))
    }
}

impl From<NetworksError> for Failure {
    fn from(error: NetworksError) -> Self {
        Self::of(&error, error.kind(), Advice::none())
    }
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Self {
        Self::of(&error, error.kind(), Advice::code("secrets"))
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Store(error) => error.into(),
            LogError::Read(_) => Self::of(&error, error.kind(), Advice::none()),
        }
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Store(error) => error.into(),
            NetworkError::Access(error) => error.into(),
            NetworkError::NoSuchRule { .. } => {
                let advice = Advice::code("no_such_rule")
                    .hint("see the rules there are: smolvm network show NAME");
                Self::of(&error, error.kind(), advice)
            }
            NetworkError::Rule(_) | NetworkError::Policy(_) | NetworkError::Record(_) => {
                Self::of(&error, error.kind(), Advice::code("network_policy"))
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of(&error, error.kind(), on_store(&error))
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        let advice = match &error {
            CreateError::UnknownImage { known, .. } => unknown_image(known),
            CreateError::Store(error) => on_store(error),
            CreateError::Cache(error) => on_cache(error),
            CreateError::Overlay(error) => on_overlay(error),
            CreateError::Copy(_) => on_full_disk(&error),
            CreateError::Secrets(_) => Advice::code("secrets"),
            CreateError::Networks(_) => Advice::none(),
            CreateError::Custom(_) => Advice::code("unusable_file"),
            CreateError::KeptDiskSize { .. } => Advice::code("kept_disk_size"),
        };
        Self::of(&error, error.kind(), advice)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let advice = match &error {
            StartError::Store(error) => on_store(error),
            StartError::Plan(error) => on_plan(error),
            StartError::Failed(failure) => on_start_failure(failure),
            StartError::Access(error) => on_access(error),
            StartError::Environment(_) => Advice::none(),
            StartError::SupervisorDied { .. } => Advice::code("supervisor_died"),
            StartError::Record(_) | StartError::Spawn { .. } => on_full_disk(&error),
        };
        let failure = Self::of(&error, error.kind(), advice);
        failure.console(error.console_tail())
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        Self::of(&error, error.kind(), on_access(&error))
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Self {
        let advice = match &error {
            ExecError::TooLong { .. } => too_long(),
            ExecError::NotStarted { .. } => Advice::none()
                .hint("the guest may be out of memory or busy; what it says: smolvm logs NAME"),
            ExecError::Access(error) => on_access(error),
        };
        Self::of(&error, error.kind(), advice)
    }
}

impl From<EnvError> for Failure {
    fn from(error: EnvError) -> Self {
        let advice = match &error {
            EnvError::Access(error) => on_access(error),
            EnvError::Unreadable => {
                Advice::none().hint("remove the file in the guest, then set the variables again")
            }
            EnvError::Name { .. }
            | EnvError::Value { .. }
            | EnvError::TooLong { .. }
            | EnvError::TooMany { .. } => Advice::none(),
        };
        Self::of(&error, error.kind(), advice)
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        let advice = match &error {
            CopyError::Guest(error) => on_access(error),
            CopyError::NotAbsolute { path, .. } => Advice::none().hint(format!(
                "start the path with a slash: NAME:/{}",
                path.display()
            )),
            CopyError::NoName { .. } | CopyError::Special { .. } => Advice::none(),
            CopyError::Host { .. } => on_full_disk(&error),
        };
        Self::of(&error, error.kind(), advice)
    }
}

impl From<AcceleratorError> for Failure {
    fn from(error: AcceleratorError) -> Self {
        Self::of(&error, error.kind(), on_accelerator(&error))
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        Self::of(&error, ErrorKind::Host, on_cache(&error))
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        let kind = match error {
            KernelError::Choice(KernelChoiceError::Name { .. }) => ErrorKind::InvalidInput,
            KernelError::Choice(KernelChoiceError::NotPrepared { .. }) => ErrorKind::NotFound,
            _ => ErrorKind::Host,
        };
        Self::of(&error, kind, on_kernel(&error))
    }
}

impl From<InitramfsError> for Failure {
    fn from(error: InitramfsError) -> Self {
        Self::of(&error, ErrorKind::Host, on_initramfs(&error))
    }
}

impl From<OverlayError> for Failure {
    fn from(error: OverlayError) -> Self {
        Self::of(&error, ErrorKind::Host, on_overlay(&error))
    }
}

impl From<RootImageError> for Failure {
    fn from(error: RootImageError) -> Self {
        let kind = match error {
            RootImageError::UnknownImage { .. } => ErrorKind::InvalidInput,
            _ => ErrorKind::Host,
        };
        Self::of(&error, kind, on_root_image(&error))
    }
}

impl From<BrowserConfigError> for Failure {
    fn from(error: BrowserConfigError) -> Self {
        Self::of(&error, error.kind(), Advice::code("invalid_browser"))
    }
}

impl From<BrowserError> for Failure {
    fn from(error: BrowserError) -> Self {
        let log = error.log().to_vec();
        let failure = match error {
            BrowserError::Create(error) => (*error).into(),
            BrowserError::Start(error) => (*error).into(),
            BrowserError::Exec(error) => error.into(),
            BrowserError::Access(error) | BrowserError::Artifact(ArtifactError::Access(error)) => {
                error.into()
            }
            BrowserError::Store(error) => error.into(),
            error => Self::of(&error, error.kind(), on_browser(&error)),
        };
        failure.console(&log)
    }
}

fn on_browser(error: &BrowserError) -> Advice {
    match error {
        BrowserError::NotFound { .. } => Advice::code("browser_session_not_found")
            .hint("see which there are: smolvm browser list"),
        BrowserError::AlreadyExists { id } => Advice::code("browser_session_exists").hint(format!(
            "choose another name, or stop it: smolvm browser stop {id}"
        )),
        BrowserError::ProfileInUse { session, .. } => Advice::code("profile_in_use")
            .hint(format!("stop that session: smolvm browser stop {session}")),
        BrowserError::NotReady { id, .. } => Advice::code("browser_not_ready")
            .hint(format!("see what it said: smolvm browser logs {id}")),
        BrowserError::Failed { .. } => {
            Advice::code("browser_failed").hint("more memory may help: --memory-mib 4096")
        }
        _ => Advice::none(),
    }
}

fn on_store(error: &StoreError) -> Advice {
    match error {
        StoreError::NotFound { .. } => {
            Advice::code("sandbox_not_found").hint("see which there are: smolvm list --all")
        }
        StoreError::NameTaken { id } => Advice::code("name_taken")
            .hint(format!("use it: smolvm start {id}"))
            .hint(format!(
                "or choose another name, or delete it: smolvm delete {id}"
            )),
        StoreError::Busy { .. } => {
            Advice::code("sandbox_busy").hint("another command is changing it; try again")
        }
        StoreError::Files { .. } => on_full_disk(error),
        StoreError::Record(_) => Advice::code("record_damaged"),
    }
}

fn on_access(error: &AccessError) -> Advice {
    match error {
        AccessError::Store(error) => on_store(error),
        AccessError::NotRunning {
            id,
            state: SandboxState::Paused,
            ..
        } => Advice::code("not_running").hint(format!("let it go on: smolvm resume {id}")),
        AccessError::NotPaused { .. } => Advice::code("not_paused"),
        AccessError::NotRunning { id, reason, .. } => {
            let advice = Advice::code("not_running").hint(format!("start it: smolvm start {id}"));
            match reason {
                // Somebody asked for this one, and knows.
                Some(reason) if reason == "stopped" => advice,
                Some(reason) => advice
                    .hint(format!("it ended because: {reason}"))
                    .hint(format!("see what it said: smolvm logs {id}")),
                None => advice,
            }
        }
        AccessError::Silent { id } => Advice::code("supervisor_silent")
            .hint(format!("see what it said: smolvm logs --supervisor {id}")),
        AccessError::Connection(_) | AccessError::ConnectionEnded | AccessError::Unexpected => {
            Advice::none()
        }
        AccessError::Refused(refusal) => on_refusal(refusal),
    }
}

fn on_refusal(refusal: &Refusal) -> Advice {
    match refusal.code {
        RefusalCode::CommandNotFound => Advice::code("command_not_found")
            .exit_code(NOT_FOUND)
            .hint("a line for a shell goes into -c: smolvm run -c 'echo $HOME | wc -c'"),
        RefusalCode::NotExecutable => Advice::code("not_executable").exit_code(NOT_EXECUTABLE),
        RefusalCode::ArgumentsTooLong => too_long(),
        RefusalCode::NoSpace => Advice::code("guest_disk_full")
            .hint("create the sandbox with a larger disk: --disk-size 8G"),
        RefusalCode::UnknownUser => Advice::code("unknown_user")
            .hint("name a user of the guest, or a number as in --user 1000:1000"),
        RefusalCode::Incompatible | RefusalCode::UnknownRequest => Advice::code("incompatible")
            .hint("it was started by another version of smolvm; stop it and start it again"),
        RefusalCode::ResourcesExhausted => {
            Advice::code("guest_exhausted").hint("create the sandbox with more memory: --memory 2G")
        }
        RefusalCode::PortTaken => port_taken(),
        RefusalCode::Malformed
        | RefusalCode::InvalidInput
        | RefusalCode::NotFound
        | RefusalCode::PermissionDenied
        | RefusalCode::AlreadyExists
        | RefusalCode::NotADirectory
        | RefusalCode::IsADirectory
        | RefusalCode::NotEmpty
        | RefusalCode::ConnectionRefused
        | RefusalCode::Host
        | RefusalCode::ShuttingDown
        | RefusalCode::Io => Advice::none(),
    }
}

fn too_long() -> Advice {
    Advice::code("arguments_too_long")
        .exit_code(NOT_EXECUTABLE)
        .hint("send it through standard input, or as a file with smolvm cp")
}

fn on_start_failure(failure: &StartFailure) -> Advice {
    match failure.kind {
        StartFailureKind::VmmMissing => Advice::missing("qemu_missing", INSTALL_QEMU),
        StartFailureKind::VmmFailed => {
            Advice::code("vmm_failed").hint("check this host: smolvm doctor")
        }
        StartFailureKind::GuestPanicked => Advice::code("guest_panicked")
            .hint("more memory may help: --memory 1G")
            .hint("all the guest's kernel said, of a sandbox that is kept: smolvm logs NAME"),
        StartFailureKind::AgentSilent => Advice::code("agent_silent")
            .hint("check that guests boot on this host: smolvm doctor --self-test"),
        StartFailureKind::Incompatible => Advice::code("incompatible")
            .hint("programs of one version belong together: smolvm, smolvm-vmm, smolvm-agent"),
        StartFailureKind::PortTaken => port_taken(),
        StartFailureKind::Files | StartFailureKind::Host => Advice::none(),
    }
}

fn port_taken() -> Advice {
    Advice::code("port_taken").hint("see what has it, and end that: ss -tlnp")
}

pub(crate) fn on_plan(error: &PlanError) -> Advice {
    match error {
        PlanError::QemuMissing => Advice::missing("qemu_missing", INSTALL_QEMU),
        PlanError::KvmNotUsable { .. } => Advice::code("kvm_not_usable")
            .hint("what to do about it: smolvm doctor --engine kvm")
            .hint("or leave the choice to SmolVM, or use QEMU: --engine qemu"),
        PlanError::Accelerator(error) => on_accelerator(error),
        PlanError::Cache(error) => on_cache(error),
        PlanError::Kernel(error) => on_kernel(error),
        PlanError::Initramfs(error) => on_initramfs(error),
        PlanError::ImageName { .. } => unknown_image(&smolvm_image::known_images()),
        PlanError::RootImage { source, .. } => on_root_image(source),
        PlanError::Custom(_) => Advice::code("unusable_file"),
        PlanError::Record(_) => on_full_disk(error),
    }
}

fn unknown_image(known: &[&str]) -> Advice {
    Advice::code("unknown_image").hint(format!("there are these images: {}", known.join(", ")))
}

fn on_accelerator(error: &AcceleratorError) -> Advice {
    match error {
        AcceleratorError::Run { .. } => Advice::code("probe_failed")
            .hint("smolvm-vmm belongs beside smolvm; SMOLVM_VMM names it elsewhere"),
        AcceleratorError::Report(_) | AcceleratorError::Version { .. } => {
            Advice::code("probe_failed")
                .hint("programs of one version belong together: smolvm, smolvm-vmm, smolvm-agent")
        }
        AcceleratorError::NoClock => Advice::code("no_clock"),
    }
}

fn on_kernel(error: &KernelError) -> Advice {
    match error {
        KernelError::Cache(error) => on_cache(error),
        KernelError::Command(error) => on_host_program(error),
        KernelError::UnknownPackage { .. } => package_lists_missing(),
        KernelError::ToolsMissing { packages, .. } => Advice::missing(
            "package_missing",
            &format!("sudo apt-get install {}", packages.join(" ")),
        ),
        KernelError::Choice(error) => on_kernel_choice(error),
        _ => on_full_disk(error),
    }
}

fn on_kernel_choice(error: &KernelChoiceError) -> Advice {
    match error {
        KernelChoiceError::Name { .. } => Advice::code("unknown_kernel"),
        KernelChoiceError::NotPrepared { choice } => {
            let advice = Advice::code("kernel_not_prepared");
            match choice {
                KernelChoice::Release(_) => advice,
                KernelChoice::Stock | KernelChoice::Tuned => {
                    advice.hint("build it: smolvm kernel build")
                }
            }
            .hint("go back to the distribution's: smolvm kernel use stock")
        }
        KernelChoiceError::Read { .. } => on_full_disk(error),
        KernelChoiceError::Damaged { .. } => {
            Advice::code("choice_damaged").hint("choose anew: smolvm kernel use stock")
        }
    }
}

fn on_initramfs(error: &InitramfsError) -> Advice {
    match error {
        InitramfsError::Cache(error) => on_cache(error),
        InitramfsError::Agent { .. } => Advice::code("agent_missing")
            .hint("smolvm-agent belongs beside smolvm; SMOLVM_AGENT names it elsewhere"),
        InitramfsError::AgentNotExecutable { .. } | InitramfsError::AgentNotStatic { .. } => {
            Advice::code("agent_unusable").hint("build it as it must be: cargo xtask build")
        }
        InitramfsError::Join { .. } => on_full_disk(error),
        InitramfsError::Module { .. } => Advice::none(),
    }
}

fn on_overlay(error: &OverlayError) -> Advice {
    match error {
        OverlayError::Cache(error) => on_cache(error),
        OverlayError::Command(error) => on_host_program(error),
        OverlayError::Size { .. } => Advice::none(),
    }
}

fn on_root_image(error: &RootImageError) -> Advice {
    match error {
        RootImageError::UnknownImage { known, .. } => unknown_image(known),
        RootImageError::Cache(error) => on_cache(error),
        RootImageError::Command(error) => on_host_program(error),
        RootImageError::NoPackageLists { .. } => package_lists_missing(),
        RootImageError::NoArchiveKeys { package } => Advice::missing(
            "package_missing",
            &format!("sudo apt-get install {package}"),
        ),
        RootImageError::HostNotDebian { .. } => Advice::code("host_not_debian"),
        RootImageError::Rewrite(_) => on_full_disk(error),
    }
}

fn package_lists_missing() -> Advice {
    Advice::code("package_lists_missing").hint("fetch them: sudo apt-get update")
}

fn on_host_program(error: &CommandError) -> Advice {
    match error {
        CommandError::Missing { package, .. } => Advice::missing(
            "package_missing",
            &format!("sudo apt-get install {package}"),
        ),
        CommandError::DiskFull { .. } => disk_full(),
        CommandError::Io { .. } | CommandError::Failed { .. } => Advice::none(),
    }
}

fn on_cache(error: &CacheError) -> Advice {
    match error {
        CacheError::Full { .. } => disk_full(),
        CacheError::NotPrivate { root, .. } => Advice::code("cache_not_private").hint(format!(
            "if its content is yours: chmod go-w {}",
            root.display()
        )),
        CacheError::Io { .. } | CacheError::Corrupted { .. } => on_full_disk(error),
    }
}

fn disk_full() -> Advice {
    Advice::code("disk_full")
        .hint("free some space, or set SMOLVM_HOME to a directory on another disk")
}

/// Advises on a full or forbidden file system, where that is the last cause of `error`.
fn on_full_disk(error: &(dyn Error + 'static)) -> Advice {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<std::io::Error>().map(|io| io.kind());
        match kind {
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
                return disk_full();
            }
            Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => {
                return Advice::code("not_permitted")
                    .hint("set SMOLVM_HOME to a directory that may be written to");
            }
            _ => cause = error.source(),
        }
    }
    Advice::none()
}
