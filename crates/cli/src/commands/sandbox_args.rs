//! Arguments that describe a sandbox to be made; `run` and `create` share them.

use smolvm_sandbox::{
    DEFAULT_DISK, DEFAULT_MEMORY, DEFAULT_VCPUS, DiskMib, EngineChoice, Lifetime, MemoryMib,
    SandboxId, SandboxSpec, VcpuCount,
};

use crate::settings::Settings;
use crate::values;

/// A sandbox as typed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct SandboxArgs {
    /// Its name; a random one when not given.
    #[arg(short, long, value_parser = values::sandbox_id)]
    name: Option<SandboxId>,

    /// The image it runs.
    #[arg(long, default_value = smolvm_image::DEFAULT_IMAGE)]
    image: String,

    #[arg(
        long,
        value_name = "SIZE",
        aliases = ["memory-mib", "mem-size-mib"],
        value_parser = values::memory,
        help = format!("Its memory, in MiB or as in 1G [default: {}M]", DEFAULT_MEMORY.get()),
    )]
    memory: Option<MemoryMib>,

    #[arg(
        long,
        value_name = "NUMBER",
        value_parser = values::vcpus,
        help = format!("Its virtual CPUs [default: {}]", DEFAULT_VCPUS.get()),
    )]
    cpus: Option<VcpuCount>,

    #[arg(
        long,
        value_name = "SIZE",
        alias = "disk-size-mib",
        value_parser = values::disk,
        help = format!("Its writable disk, in MiB or as in 8G [default: {}M]", DEFAULT_DISK.get()),
    )]
    disk_size: Option<DiskMib>,

    /// What runs it: auto or qemu [default: SMOLVM_BACKEND, else auto].
    #[arg(long, alias = "backend", value_parser = values::engine)]
    engine: Option<EngineChoice>,
}

impl SandboxArgs {
    /// Returns the specification of the sandbox: flags, then the environment, then defaults.
    pub(crate) fn spec(self, lifetime: Lifetime, settings: &Settings) -> SandboxSpec {
        SandboxSpec {
            image: self.image,
            engine: self.engine.unwrap_or(settings.engine),
            vcpus: self.cpus.unwrap_or(DEFAULT_VCPUS),
            memory: self.memory.unwrap_or(DEFAULT_MEMORY),
            disk: self.disk_size.unwrap_or(DEFAULT_DISK),
            ..SandboxSpec::new(self.name.unwrap_or_else(SandboxId::random), lifetime)
        }
    }
}
