//! Templates: a machine that has booted once is recorded, and new sandboxes go on from there instead
//! of booting.
//!
//! ```text
//!   first sandbox of a recipe                           each later one
//!     recorder process: boot ── hello ── settle           copy of the disk
//!        └─ host's end closed ── guest's end closed       private view of the memory
//!           └─ pause ── record ── publish in the cache    hello with an identity of its own
//! ```
//!
//! A recipe is all that a template depends on ([`recipe`]). What belongs to one sandbox alone is not
//! in a template, since its hello brings it: name, network, certificate, variables, random numbers.
//!
//! A template is recorded by a process of its own, as a supervisor is one: the caller may be a program
//! with any threads, and its machine must not end with one of them.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_bytes::ByteBuf;
use smolvm_image::{
    Cache, CacheError, CopyError, OverlayError, Progress, Template, TemplateRecipe,
};
use smolvm_protocol::message::{Command as GuestCommand, Exec};

use crate::engine::{
    Accelerator, BootError, BootPlan, EnginePlan, Machine, Origin, Recording, engine_of,
};
use crate::multiplexer::{AgentSession, GuestSettings, SessionError};
use crate::{SandboxSpec, text};

/// Hidden command of the `smolvm` program that records a template.
pub const RECORD_COMMAND: &str = "record";

/// What a person is told meanwhile.
const STEP: &str = "booting a template";

/// Host name of a machine before anybody goes on from it.
const HOSTNAME: &str = "template";

/// How long a machine may take from its start to its recording.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a guest may take to close its end of the agent's stream: QEMU tells once a second.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// Commands that are run before the recording, so that what each command needs is in the guest's
/// memory.
const WARM_UP: [&str; 2] = ["true", "sh -c true"];

/// Longest message of a recorder that is passed on, in bytes.
const MAX_MESSAGE_BYTES: u64 = 16 * 1024;

/// Longest plan that a recorder reads, in bytes.
const MAX_PLAN_BYTES: u64 = 1024 * 1024;

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The cache failed.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// The disk could not be made.
    #[error("make the disk of the template")]
    Overlay(#[from] OverlayError),
    /// The disk could not be copied.
    #[error("copy the disk of the template")]
    Copy(#[from] CopyError),
    /// The recorder could not be started or listened to.
    #[error("record a machine")]
    Recorder(#[source] io::Error),
    /// The recorder failed.
    #[error("record a machine: {message}")]
    Failed {
        /// Why, as it says.
        message: String,
    },
}

/// Why a machine could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The plan could not be read.
    #[error("read the plan of the machine")]
    Plan(#[source] io::Error),
    /// The machine could not be started.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The guest did not do its part.
    #[error("get the guest ready: {0}")]
    Guest(String),
    /// The machine did not do its part.
    #[error("{step}")]
    Machine {
        /// What it was to do.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("the guest was not ready within {} s", PATIENCE.as_secs())]
    Slow,
    /// Whoever wanted it is gone.
    #[error("nobody waits for it any more")]
    Unwanted,
}

/// Says whether machines like that of `plan` can have a template.
pub(crate) fn is_possible(plan: &BootPlan) -> bool {
    let is_emulated = match &plan.engine {
        EnginePlan::Qemu { accelerator, .. } => *accelerator == Accelerator::SoftwareEmulation,
        EnginePlan::Kvm { .. } | EnginePlan::Fake(_) => false,
    };
    // What QEMU makes of a processor of KVM's when it loads it has not been tried.
    is_emulated && engine_of(&plan.engine).capabilities().can_record
}

/// Returns the template for the machine of `plan`, whose image and disk are those of `spec`; records
/// it when there is none. `smolvm` is the program that records. Blocks.
pub(crate) fn obtain(
    cache: &Cache,
    plan: &BootPlan,
    spec: &SandboxSpec,
    smolvm: &Path,
    progress: &dyn Progress,
) -> Result<Template, TemplateError> {
    smolvm_image::template(cache, &recipe(plan, spec), progress, |template| {
        let blank = smolvm_image::overlay_template(cache, spec.disk.get(), progress)?;
        progress.started(STEP, None);
        smolvm_image::copy_sparse(&blank, &template.disk)?;
        run_recorder(smolvm, &to_be_recorded(plan, template))?;
        progress.finished(STEP);
        Ok(())
    })
}

/// Returns all that a template made for one plan depends on.
fn recipe(plan: &BootPlan, spec: &SandboxSpec) -> TemplateRecipe {
    let engine = match &plan.engine {
        EnginePlan::Qemu {
            program,
            accelerator,
            ..
        } => format!("qemu {} {}", accelerator.as_str(), stamp(program)),
        EnginePlan::Kvm { program } => format!("kvm {}", stamp(program)),
        EnginePlan::Fake(_) => "fake".to_owned(),
    };
    let file = |path: &Path| path.display().to_string();
    let recipe = [
        ("smolvm", env!("CARGO_PKG_VERSION").to_owned()),
        ("engine", engine),
        ("image", spec.image.to_string()),
        // Paths of the cache, which name their content.
        ("kernel", file(&plan.kernel)),
        ("initramfs", file(&plan.initramfs)),
        ("root-image", file(&plan.root_image)),
        ("cpus", plan.vcpus.get().to_string()),
        ("memory-mib", plan.memory.get().to_string()),
        ("disk-mib", spec.disk.get().to_string()),
        ("network", plan.network.is_some().to_string()),
    ];
    let recipe = recipe.into_iter();
    recipe
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Tells one version of a program from another: an update replaces its file.
fn stamp(program: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = std::fs::metadata(program);
    let stamp = metadata.map(|file| format!("{} {} {}", file.size(), file.mtime(), file.ino()));
    format!("{} {}", program.display(), stamp.unwrap_or_default())
}

/// Returns the plan of the machine that is recorded for machines like that of `plan`.
fn to_be_recorded(plan: &BootPlan, template: &Template) -> BootPlan {
    BootPlan {
        overlay: Some(template.disk.clone()),
        hostname: HOSTNAME.to_owned(),
        origin: Origin::ToBeRecorded(recording(template)),
        ..plan.clone()
    }
}

/// Returns what a machine goes on from.
pub(crate) fn recording(template: &Template) -> Recording {
    Recording {
        memory: template.memory.clone(),
        state: template.state.clone(),
    }
}

/// Has a process of its own record the machine of `plan`. Blocks.
fn run_recorder(smolvm: &Path, plan: &BootPlan) -> Result<(), TemplateError> {
    let plan = serde_json::to_vec(plan).map_err(|error| TemplateError::Recorder(error.into()))?;
    let mut command = Command::new(smolvm);
    command
        .arg(RECORD_COMMAND)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut run = || -> io::Result<(std::process::ExitStatus, String)> {
        let mut recorder = command.spawn()?;
        // Kept open until it has ended: its end tells the recorder that nobody waits any more.
        let mut wanted = recorder.stdin.take().expect("the input is piped");
        wanted.write_all(&plan)?;
        wanted.write_all(b"\n")?;
        let mut message = Vec::new();
        let errors = recorder.stderr.take().expect("the error output is piped");
        errors.take(MAX_MESSAGE_BYTES).read_to_end(&mut message)?;
        Ok((recorder.wait()?, text::printable(&message)))
    };
    match run().map_err(TemplateError::Recorder)? {
        (status, _) if status.success() => Ok(()),
        (status, message) if message.is_empty() => Err(TemplateError::Failed {
            message: status.to_string(),
        }),
        (_, message) => Err(TemplateError::Failed { message }),
    }
}

/// Records the machine whose plan is the first line of this process's standard input, and gives up
/// at the input's end.
///
/// # Errors
///
/// When the machine does not come up, or cannot be recorded. Its files are then of no use.
pub async fn record() -> Result<(), RecordingError> {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = Vec::new();
    let mut first = (&mut input).take(MAX_PLAN_BYTES);
    let read = first.read_until(b'\n', &mut line).await;
    read.map_err(RecordingError::Plan)?;
    let plan = serde_json::from_slice(&line).map_err(|error| RecordingError::Plan(error.into()))?;
    let nobody_waits = async {
        let mut rest = [0; 64];
        while input.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    };
    tokio::select! {
        recorded = record_machine(&plan) => recorded,
        () = nobody_waits => Err(RecordingError::Unwanted),
    }
}

async fn record_machine(plan: &BootPlan) -> Result<(), RecordingError> {
    let mut machine = engine_of(&plan.engine).boot(plan).await?;
    let recorded = get_ready_and_record(&mut *machine, plan).await;
    machine.kill();
    machine.wait().await;
    recorded
}

async fn get_ready_and_record(
    machine: &mut dyn Machine,
    plan: &BootPlan,
) -> Result<(), RecordingError> {
    let mut console = machine.take_console().expect("nobody else has taken it");
    let console =
        tokio::spawn(async move { tokio::io::copy(&mut console, &mut tokio::io::sink()).await });
    let stream = machine
        .take_agent_stream()
        .expect("nobody else has taken it");
    {
        let (session, _connection) = AgentSession::start(stream);
        tokio::select! {
            ready = tokio::time::timeout(PATIENCE, get_ready(&session, plan)) => {
                let ready = ready.map_err(|_| RecordingError::Slow)?;
                ready.map_err(|error| RecordingError::Guest(text::chain(&error)))?;
            }
            exit = machine.wait() => {
                return Err(RecordingError::Guest(format!("its machine ended: {exit:?}")));
            }
        }
        // Here our end of the stream is closed.
    }
    let closed = tokio::time::timeout(CLOSE_PATIENCE, machine.agent_port_closed()).await;
    let closed = closed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let step = |step| move |source| RecordingError::Machine { step, source };
    closed.map_err(step("wait until the guest has closed its port"))?;
    machine.pause().await.map_err(step("pause the machine"))?;
    machine
        .record()
        .await
        .map_err(step("write the machine down"))?;
    console.abort();
    Ok(())
}

/// Has the guest do everything that a later one need not do again.
async fn get_ready(session: &AgentSession, plan: &BootPlan) -> Result<(), SessionError> {
    let settings = GuestSettings {
        network: plan.network.map(crate::network::guest_side),
        ..GuestSettings::default()
    };
    session.hello(settings).await?;
    for line in WARM_UP {
        session.run_to_end(&command(line)).await?;
    }
    session.settle().await
}

fn command(line: &str) -> Exec {
    let words = line.split(' ').map(ByteBuf::from);
    Exec::of(GuestCommand::Arguments(words.collect()))
}
