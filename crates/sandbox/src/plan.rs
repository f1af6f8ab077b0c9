//! From what was asked for to what is done: resolves a specification against this host.
//!
//! Everything that can take long is prepared here, in the caller's process and with its progress:
//! the kernel, the initramfs, the root image. What comes out is a [`SupervisorPlan`], plain data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smolvm_image::Progress;
use smolvm_network::Mode;

use crate::accelerator::{self, AcceleratorChoice, AcceleratorError};
use crate::custom::{self, CustomBootError};
use crate::engine::fake::Script;
use crate::engine::{Accelerator, BootPlan, EnginePlan, Origin, Recording};
use crate::record::{RecordError, SandboxDir, read_json, write_json};
use crate::template::{self, TemplateError};
use crate::{
    AtEnd, EngineChoice, ErrorKind, Installation, Lifetime, PortForwards, SandboxId, SandboxSpec,
    disk, secrets, text,
};

/// Version of the saved plan.
const VERSION: u32 = 2;

/// Milliseconds a guest on KVM has until its agent answers; it takes well under 2,000.
const KVM_START_TIMEOUT_MS: u64 = 30_000;

/// Milliseconds an emulated guest has until its agent answers; it takes about 2,000 on an idle
/// host, and many times that when dozens start at once.
const EMULATED_START_TIMEOUT_MS: u64 = 120_000;

/// All that a supervisor needs to know, saved for it in the sandbox's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorPlan {
    version: u32,
    /// The sandbox.
    pub id: SandboxId,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Milliseconds from the machine's start to the agent's answer, at most.
    pub start_timeout_ms: u64,
    /// Milliseconds without any operation after which the sandbox ends.
    pub idle_timeout_ms: Option<u64>,
    /// Milliseconds from the agent's answer after which the sandbox ends.
    pub max_lifetime_ms: Option<u64>,
    /// Processes and threads that all commands together may have.
    #[serde(default)]
    pub max_processes: Option<u32>,
    /// Ports that are exposed before the sandbox is said to be ready.
    #[serde(default)]
    pub port_forwards: PortForwards,
    /// What the guest does before it is shut down.
    #[serde(default)]
    pub at_end: Option<AtEnd>,
    /// Environment variables of every command: placeholders of secrets.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// The machine.
    pub boot: BootPlan,
}

/// Why a specification cannot be made real on this host.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// QEMU is not installed.
    #[error("find qemu-system-x86_64: it is not installed")]
    QemuMissing,
    /// The engine `kvm` was asked for, and this host's KVM is not usable.
    #[error("use the engine kvm: {reason}")]
    KvmNotUsable {
        /// Why not.
        reason: String,
    },
    /// How to accelerate the machine could not be found out.
    #[error("choose how to run the machine")]
    Accelerator(#[from] AcceleratorError),
    /// The cache cannot be used.
    #[error("open the cache")]
    Cache(#[from] smolvm_image::CacheError),
    /// The kernel could not be prepared.
    #[error("prepare the guest kernel")]
    Kernel(#[from] smolvm_image::KernelError),
    /// The initramfs could not be prepared.
    #[error("prepare the initramfs")]
    Initramfs(#[from] smolvm_image::InitramfsError),
    /// The image's name is not one.
    #[error("find the image")]
    ImageName {
        /// What is wrong with it.
        source: smolvm_image::ImageNameError,
    },
    /// The root image could not be prepared.
    #[error("prepare image '{image}'")]
    RootImage {
        /// The image's name.
        image: String,
        /// Why not.
        #[source]
        source: Box<smolvm_image::RootImageError>,
    },
    /// A file of the user's own cannot be booted from.
    #[error(transparent)]
    Custom(#[from] CustomBootError),
    /// The plan could not be saved or read.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Why a template could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareTemplateError {
    /// This host cannot run such a sandbox.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The template could not be made.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl PlanError {
    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::QemuMissing | Self::KvmNotUsable { .. } => ErrorKind::Unsupported,
            Self::Accelerator(error) => error.kind(),
            Self::ImageName { .. } | Self::Custom(_) => ErrorKind::InvalidInput,
            Self::RootImage { source, .. }
                if matches!(**source, smolvm_image::RootImageError::UnknownImage { .. }) =>
            {
                ErrorKind::InvalidInput
            }
            Self::Cache(_) | Self::Kernel(_) | Self::Initramfs(_) | Self::RootImage { .. } => {
                ErrorKind::Host
            }
            Self::Record(error) => error.kind(),
        }
    }
}

impl SupervisorPlan {
    /// Returns a plan for the scripted guest.
    #[cfg(test)]
    pub(crate) fn for_fake(spec: &SandboxSpec, script: Script, start_timeout_ms: u64) -> Self {
        Self {
            version: VERSION,
            id: spec.id.clone(),
            lifetime: spec.lifetime,
            start_timeout_ms,
            idle_timeout_ms: spec.idle_timeout_ms,
            max_lifetime_ms: spec.max_lifetime_ms,
            max_processes: spec.max_processes,
            port_forwards: spec.port_forwards.clone(),
            at_end: spec.at_end.clone(),
            variables: secrets::placeholders(spec),
            boot: BootPlan {
                engine: EnginePlan::Fake(script),
                kernel: PathBuf::new(),
                initramfs: PathBuf::new(),
                root_image: PathBuf::new(),
                overlay: None,
                extra_drives: Vec::new(),
                boot_args: String::new(),
                hostname: String::new(),
                vcpus: spec.vcpus,
                memory: spec.memory,
                network: None,
                origin: Origin::Kernel,
            },
        }
    }

    /// Saves the plan for the supervisor.
    pub(crate) fn save(&self, directory: &SandboxDir) -> Result<(), RecordError> {
        write_json(&directory.plan(), self)
    }

    /// Reads the plan of a sandbox.
    pub(crate) fn load(directory: &SandboxDir) -> Result<Self, RecordError> {
        let path = directory.plan();
        let plan: Self = read_json(&path)?;
        if plan.version == VERSION {
            Ok(plan)
        } else {
            Err(RecordError::Version {
                path,
                found: plan.version,
            })
        }
    }
}

/// The files a machine boots from, and what goes with them.
#[derive(Default)]
struct BootFiles {
    kernel: PathBuf,
    initramfs: PathBuf,
    root_image: PathBuf,
    extra_drives: Vec<PathBuf>,
    boot_args: String,
}

/// Resolves `spec` against this host, preparing what is missing.
///
/// # Errors
///
/// When something that is needed is missing and cannot be made.
pub(crate) async fn resolve(
    spec: &SandboxSpec,
    directory: &SandboxDir,
    installation: &Installation,
    progress: Arc<dyn Progress>,
) -> Result<SupervisorPlan, PlanError> {
    let (engine, start_timeout_ms) = engine_plan(spec, installation).await?;
    let boot = match engine {
        EnginePlan::Fake(_) => boot_plan(spec, engine, BootFiles::default(), directory.overlay()),
        EnginePlan::Kvm { .. } | EnginePlan::Qemu { .. } => {
            let (spec, installation) = (spec.clone(), installation.clone());
            let directory = directory.clone();
            tokio::task::spawn_blocking(move || {
                prepare(&spec, &directory, engine, &installation, &*progress)
            })
            .await
            .expect("prepare does not panic and is never cancelled")?
        }
    };
    Ok(SupervisorPlan {
        version: VERSION,
        id: spec.id.clone(),
        lifetime: spec.lifetime,
        start_timeout_ms,
        idle_timeout_ms: spec.idle_timeout_ms,
        max_lifetime_ms: spec.max_lifetime_ms,
        max_processes: spec.max_processes,
        port_forwards: spec.port_forwards.clone(),
        at_end: spec.at_end.clone(),
        variables: secrets::placeholders(spec),
        boot,
    })
}

/// Has a template made for sandboxes like that of `spec`, where they can have one and there is none.
///
/// # Errors
///
/// When this host cannot run such a sandbox, or its template cannot be made.
pub async fn prepare_template(
    spec: SandboxSpec,
    installation: Installation,
    progress: Arc<dyn Progress>,
) -> Result<(), PrepareTemplateError> {
    let (engine, _) = engine_plan(&spec, &installation).await?;
    let prepare = move || {
        let cache = smolvm_image::Cache::open(&installation.cache_dir).map_err(PlanError::Cache)?;
        // Nothing of a sandbox's own is made.
        let nowhere = PathBuf::new();
        let files = prepare_files(&spec, &installation, &cache, &nowhere, &*progress)?;
        let plan = boot_plan(&spec, engine, files, nowhere);
        if template::is_possible(&plan) {
            template::obtain(&cache, &plan, &spec, &installation.smolvm, &*progress)?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(prepare)
        .await
        .expect("preparing does not panic and is never cancelled")
}

/// Returns the machine of `spec`, which boots from `files` and may have the disk `overlay`.
fn boot_plan(
    spec: &SandboxSpec,
    engine: EnginePlan,
    files: BootFiles,
    overlay: PathBuf,
) -> BootPlan {
    let is_shared = spec.custom.as_ref().is_some_and(|custom| custom.is_shared);
    BootPlan {
        engine,
        kernel: files.kernel,
        initramfs: files.initramfs,
        root_image: files.root_image,
        overlay: (!is_shared).then_some(overlay),
        extra_drives: files.extra_drives,
        boot_args: files.boot_args,
        // A host name has no underscore (RFC 952, "Grammatical Host Table Specification").
        hostname: spec.id.as_str().replace('_', "-"),
        vcpus: spec.vcpus,
        memory: spec.memory,
        network: (spec.network.mode() != Mode::Off).then(crate::network::device),
        origin: Origin::Kernel,
    }
}

/// Prepares what the machine of `spec` starts from: files, and a template where it can go on from one.
fn prepare(
    spec: &SandboxSpec,
    directory: &SandboxDir,
    engine: EnginePlan,
    installation: &Installation,
    progress: &dyn Progress,
) -> Result<BootPlan, PlanError> {
    let cache = smolvm_image::Cache::open(&installation.cache_dir)?;
    let files = prepare_files(spec, installation, &cache, &directory.initramfs(), progress)?;
    let mut plan = boot_plan(spec, engine, files, directory.overlay());
    // From here on the disk is the guest's. One that has gone is missed by the machine's start.
    let is_blank = disk::take_blank(directory) && directory.overlay().exists();
    if is_blank && template::is_possible(&plan) && !spec.boots_cold && spec.custom.is_none() {
        match template_of(&plan, spec, directory, &cache, installation, progress) {
            Ok(recording) => plan.origin = Origin::Recording(recording),
            // It would be faster, no more.
            Err(error) => progress.warning(&format!(
                "the machine boots, because there is no template to go on from: {}",
                text::chain(&error)
            )),
        }
    }
    Ok(plan)
}

/// Returns what the machine of `plan` can go on from, and gives it the disk that belongs to that.
fn template_of(
    plan: &BootPlan,
    spec: &SandboxSpec,
    directory: &SandboxDir,
    cache: &smolvm_image::Cache,
    installation: &Installation,
    progress: &dyn Progress,
) -> Result<Recording, TemplateError> {
    let template = template::obtain(cache, plan, spec, &installation.smolvm, progress)?;
    disk::replace(directory, &template.disk)?;
    Ok(template::recording(&template))
}

async fn engine_plan(
    spec: &SandboxSpec,
    installation: &Installation,
) -> Result<(EnginePlan, u64), PlanError> {
    if spec.engine == EngineChoice::Fake {
        return Ok((EnginePlan::Fake(Script::default()), KVM_START_TIMEOUT_MS));
    }
    let choice = accelerator::choose(installation).await?;
    let timeout_ms = match choice.accelerator {
        Accelerator::Kvm => KVM_START_TIMEOUT_MS,
        Accelerator::SoftwareEmulation => EMULATED_START_TIMEOUT_MS,
    };
    let engine = if has_own_monitor(spec.engine, &choice)? {
        EnginePlan::Kvm {
            program: installation.vmm.clone(),
        }
    } else {
        EnginePlan::Qemu {
            program: installation.qemu.clone().ok_or(PlanError::QemuMissing)?,
            launcher: installation.vmm.clone(),
            accelerator: choice.accelerator,
            tsc_khz: choice.tsc_khz()?,
        }
    };
    Ok((engine, timeout_ms))
}

/// Says whether our own monitor runs the machine, which only KVM lets it.
fn has_own_monitor(asked: EngineChoice, choice: &AcceleratorChoice) -> Result<bool, PlanError> {
    match (asked.resolved(choice.accelerator), choice.accelerator) {
        (EngineChoice::Kvm, Accelerator::Kvm) => Ok(true),
        (EngineChoice::Kvm, Accelerator::SoftwareEmulation) => Err(PlanError::KvmNotUsable {
            reason: choice.reason.clone(),
        }),
        (EngineChoice::Auto | EngineChoice::Qemu | EngineChoice::Fake, _) => Ok(false),
    }
}

/// Prepares the files that `spec` does not name; `joined` is where an initramfs goes that is made
/// for this sandbox alone.
fn prepare_files(
    spec: &SandboxSpec,
    installation: &Installation,
    cache: &smolvm_image::Cache,
    joined: &Path,
    progress: &dyn Progress,
) -> Result<BootFiles, PlanError> {
    // Looked at again: since the sandbox was made, the files can have gone or changed.
    let custom = spec.custom.as_ref().map(custom::checked).transpose()?;
    let custom = custom.unwrap_or_default();
    let root_image = match custom.root_image {
        Some(root_image) => root_image,
        None => image_file(cache, &spec.image, progress)?,
    };
    let kernel = match &custom.kernel {
        Some(kernel) => smolvm_image::foreign_kernel(cache, kernel, progress)?,
        None => smolvm_image::kernel(cache, progress)?,
    };
    let initramfs = smolvm_image::initramfs(cache, &kernel, &installation.agent, progress)?;
    let initramfs = match &custom.initramfs {
        Some(first) => {
            smolvm_image::join_initramfs(first, &initramfs.path, joined)?;
            joined.to_owned()
        }
        None => initramfs.path,
    };
    Ok(BootFiles {
        kernel: kernel.image,
        initramfs,
        root_image,
        extra_drives: custom.extra_drives,
        boot_args: custom.boot_args.unwrap_or_default(),
    })
}

fn image_file(
    cache: &smolvm_image::Cache,
    image: &str,
    progress: &dyn Progress,
) -> Result<PathBuf, PlanError> {
    let name = image
        .parse()
        .map_err(|source| PlanError::ImageName { source })?;
    let root_image = smolvm_image::root_image(cache, &name, progress);
    root_image
        .map(|root_image| root_image.path)
        .map_err(|source| PlanError::RootImage {
            image: image.to_owned(),
            source: Box::new(source),
        })
}
