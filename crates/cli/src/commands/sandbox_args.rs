//! Arguments that describe a sandbox to be made; `run` and `create` share them.

use std::path::PathBuf;
use std::time::Duration;

use smolvm_sandbox::control::Forward;
use smolvm_sandbox::{
    CustomBoot, DEFAULT_DISK, DEFAULT_MEMORY, DEFAULT_VCPUS, DiskMib, EngineChoice, Lifetime,
    MemoryMib, PortForwards, SandboxId, SandboxSpec, SecretSpec, VcpuCount,
};

use crate::commands::network_args::NetworkArgs;
use crate::failure::Failure;
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
    #[arg(long, alias = "os", default_value = smolvm_image::DEFAULT_IMAGE)]
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

    /// What runs it: auto, kvm or qemu [default: SMOLVM_BACKEND, else auto].
    #[arg(long, alias = "backend", value_parser = values::engine)]
    engine: Option<EngineChoice>,

    /// A label, for people and for `list --label`; can be given more than once.
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,

    /// End it when it has had nothing to do for so long.
    #[arg(long, value_name = "TIME", value_parser = values::time_limit)]
    idle_timeout: Option<Duration>,

    /// End it so long after its start, whoever uses it.
    #[arg(long, value_name = "TIME", value_parser = values::time_limit)]
    max_lifetime: Option<Duration>,

    /// Most processes and threads that all its commands together may have.
    #[arg(long, value_name = "NUMBER")]
    max_processes: Option<u32>,

    /// Make a port of the guest reachable on a port of 127.0.0.1 whenever it runs; can be given
    /// more than once.
    #[arg(short, long = "port", value_name = "HOST_PORT:GUEST_PORT", value_parser = values::forward)]
    ports: Vec<Forward>,

    /// A root file system of your own instead of an image's: ext4, squashfs or erofs.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    rootfs: Option<PathBuf>,

    /// A kernel of your own.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Boot the kernel, instead of going on from a machine that has booted before.
    #[arg(long)]
    cold: bool,

    // Last, as its heading holds for what follows.
    #[command(flatten)]
    network: NetworkArgs,
}

impl SandboxArgs {
    /// Returns the secrets of the sandbox, with their values from the environment.
    pub(crate) fn secrets(&self) -> Result<Vec<SecretSpec>, Failure> {
        self.network.secrets()
    }

    /// Returns the specification of the sandbox: flags, then the environment, then defaults.
    pub(crate) fn spec(
        self,
        lifetime: Lifetime,
        settings: &Settings,
    ) -> Result<SandboxSpec, Failure> {
        Ok(SandboxSpec {
            image: self.image,
            engine: self.engine.unwrap_or(settings.engine),
            vcpus: self.cpus.unwrap_or(DEFAULT_VCPUS),
            memory: self.memory.unwrap_or(DEFAULT_MEMORY),
            disk: self.disk_size.unwrap_or(DEFAULT_DISK),
            labels: self.labels.into_iter().collect(),
            idle_timeout_ms: self.idle_timeout.map(milliseconds),
            max_lifetime_ms: self.max_lifetime.map(milliseconds),
            max_processes: self.max_processes,
            boots_cold: self.cold,
            custom: custom_boot(self.kernel, self.rootfs),
            port_forwards: PortForwards::try_from(self.ports)?,
            network: self.network.policy()?,
            networks: self.network.networks()?,
            http_rules: self.network.http_rules().to_vec(),
            network_rate_mbps: self.network.rate_mbps(),
            ..SandboxSpec::new(self.name.unwrap_or_else(SandboxId::random), lifetime)
        })
    }
}

/// Returns the files that the sandbox boots from instead of its image's, if any.
fn custom_boot(kernel: Option<PathBuf>, rootfs: Option<PathBuf>) -> Option<CustomBoot> {
    // A supervisor has another working directory, so no path stays relative.
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let custom = CustomBoot {
        kernel: kernel.map(absolute),
        root_image: rootfs.map(absolute),
        ..CustomBoot::default()
    };
    (custom != CustomBoot::default()).then_some(custom)
}

/// Returns a duration in whole milliseconds.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
