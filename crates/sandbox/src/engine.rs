//! The seam between a sandbox and what runs its machine.
//!
//! An engine receives a [`BootPlan`], plain data with every decision taken, and returns a
//! [`Machine`], a handle. It never calls back. What an engine can do is asked beforehand.
//!
//! * [`kvm`]: our own monitor, `smolvm-vmm`, on KVM.
//! * [`qemu`]: QEMU's microvm machine, with KVM or software emulation.
//! * [`fake`]: a scripted guest inside this process, for tests.

mod connection;
pub mod fake;
pub mod kvm;
pub mod qemu;

use std::io;
use std::path::PathBuf;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use smolvm_protocol::vmm::MachineStats;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{MemoryMib, VcpuCount};

/// A byte stream both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What executes a machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor, through KVM.
    Kvm,
    /// QEMU's translator: works on every host, several times slower.
    SoftwareEmulation,
}

impl Accelerator {
    /// Returns the name that people read.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::SoftwareEmulation => "software emulation",
        }
    }
}

/// Which engine runs a machine, with what it needs to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EnginePlan {
    /// Our own monitor.
    Kvm {
        /// The `smolvm-vmm` program.
        program: PathBuf,
    },
    /// QEMU.
    Qemu {
        /// The `qemu-system-x86_64` program.
        program: PathBuf,
        /// The `smolvm-vmm` program, which enters the jail and then becomes QEMU.
        launcher: PathBuf,
        /// What executes the instructions.
        accelerator: Accelerator,
        /// The host's time stamp counter, in kHz. A guest under software emulation sees it
        /// as its own, and must not try to measure it; see [`qemu::arguments`].
        tsc_khz: u64,
    },
    /// The scripted guest.
    Fake(fake::Script),
}

impl EnginePlan {
    /// Returns the engine's name, with its accelerator.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Kvm { .. } => "kvm".to_owned(),
            Self::Qemu { accelerator, .. } => format!("qemu ({})", accelerator.as_str()),
            Self::Fake(_) => "fake".to_owned(),
        }
    }
}

/// A machine to boot, with every decision taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootPlan {
    /// The engine that boots it.
    pub engine: EnginePlan,
    /// The kernel: an ELF file with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// The initramfs with the agent.
    pub initramfs: PathBuf,
    /// The root image: read-only where there is an overlay.
    pub root_image: PathBuf,
    /// The writable overlay disk; without one the guest writes to the root image itself.
    pub overlay: Option<PathBuf>,
    /// More disks, all writable, in this order.
    pub extra_drives: Vec<PathBuf>,
    /// More words for the kernel's command line.
    pub boot_args: String,
    /// The guest's host name.
    pub hostname: String,
    /// Its virtual CPUs.
    pub vcpus: VcpuCount,
    /// Its memory.
    pub memory: MemoryMib,
    /// Its network device, if it has one.
    #[serde(default)]
    pub network: Option<NetworkDevice>,
    /// What it starts from.
    #[serde(default)]
    pub origin: Origin,
}

/// What a machine starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// Its kernel.
    #[default]
    Kernel,
    /// Its kernel; it is about to be recorded in these files, which are made.
    ToBeRecorded(Recording),
    /// This recording of another machine, which it does not change.
    Recording(Recording),
}

/// A machine that is written down, beside its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// The guest's memory, from its first byte to its last.
    pub memory: PathBuf,
    /// Processors and devices, as the engine writes them.
    pub state: PathBuf,
}

/// The network device of a machine. What the guest sends through it comes out of
/// [`Machine::take_network`], and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkDevice {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Largest packet without its Ethernet header, in bytes.
    pub mtu: u16,
}

/// What an engine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether the machine runs in a process of its own.
    pub has_process: bool,
    /// Whether the guest's console can be read.
    pub has_console: bool,
    /// Whether machines can be recorded, and go on from recordings.
    pub can_record: bool,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineExit {
    /// The guest powered off.
    PoweredOff,
    /// The guest rebooted, which ends the machine; a kernel that panics does so too.
    Reset,
    /// The VMM ended by itself or was killed.
    VmmEnded {
        /// Its exit code or signal, for people.
        status: String,
        /// The last lines it wrote to its error output, made printable.
        messages: Vec<String>,
    },
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The VMM's process could not be started.
    #[error("start {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A connection to the VMM could not be made.
    #[error("make a socket pair for the machine")]
    Socket(#[source] io::Error),
    /// A file of a recording could not be opened or made.
    #[error("use the recording {}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The VMM says that there cannot be such a machine.
    #[error("start the machine: {message}")]
    Refused {
        /// Why not, as the VMM says.
        message: String,
    },
}

/// Starts machines.
pub trait Engine: Send + Sync {
    /// Returns what this engine can do.
    fn capabilities(&self) -> Capabilities;

    /// Starts the machine of `plan`. Returns as soon as it runs; the guest boots meanwhile.
    fn boot<'a>(&'a self, plan: &'a BootPlan)
    -> BoxFuture<'a, Result<Box<dyn Machine>, BootError>>;
}

/// One running machine. Dropping it kills it.
pub trait Machine: Send {
    /// Hands out the stream to the agent; `None` after the first call.
    fn take_agent_stream(&mut self) -> Option<Box<dyn Stream>>;

    /// Hands out what the guest writes to its console; `None` after the first call.
    fn take_console(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>>;

    /// Hands out the link that the network device is on: Ethernet frames both ways, each after its
    /// length as four bytes, most significant first. `None` after the first call, and for a
    /// machine without the device.
    fn take_network(&mut self) -> Option<Box<dyn Stream>>;

    /// Returns the process ID of the VMM, where it has one.
    fn vmm_pid(&self) -> Option<u32>;

    /// Returns what the machine has done so far; `None` where the engine does not count it.
    /// Cancel-safe.
    fn stats(&mut self) -> BoxFuture<'_, io::Result<Option<MachineStats>>>;

    /// Presses the machine's power button.
    fn press_power_button(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Holds the machine still.
    fn pause(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Lets a paused machine go on.
    fn resume(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Lets a paused machine go on, without waiting until it does.
    fn resume_soon(&mut self);

    /// Waits until the guest has closed its end of the agent's stream. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the machine is gone, or its engine does not see this.
    fn agent_port_closed(&mut self) -> BoxFuture<'_, io::Result<()>> {
        std::future::ready(Err(io::ErrorKind::Unsupported.into())).boxed()
    }

    /// Writes down a paused machine that was started [to be recorded](Origin::ToBeRecorded). It must
    /// not go on afterwards: its memory is the recording's.
    ///
    /// # Errors
    ///
    /// When the engine cannot record, or writing fails.
    fn record(&mut self) -> BoxFuture<'_, io::Result<()>> {
        std::future::ready(Err(io::ErrorKind::Unsupported.into())).boxed()
    }

    /// Waits until the machine has ended and nothing of it is left. Cancel-safe.
    fn wait(&mut self) -> BoxFuture<'_, MachineExit>;

    /// Ends the machine at once; [`Machine::wait`] tells when it is gone.
    fn kill(&mut self);
}

/// Returns the engine that `plan` names.
#[must_use]
pub fn engine_of(plan: &EnginePlan) -> Box<dyn Engine> {
    match plan {
        EnginePlan::Kvm { .. } => Box::new(kvm::Kvm),
        EnginePlan::Qemu { .. } => Box::new(qemu::Qemu),
        EnginePlan::Fake(_) => Box::new(fake::Fake),
    }
}
