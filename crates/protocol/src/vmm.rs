//! What a supervisor and its virtual machine monitor say to each other.
//!
//! One JSON document a line, on a stream socket that the monitor inherits:
//!
//! ```text
//!   supervisor                      smolvm-vmm run
//!     boot  ───────────────────────>            the machine; once, first
//!           <───────────────────────  done      it runs
//!     pause, resume, power_button,
//!     renew_generation_id, stats ──>
//!           <───────────────────────  done, refused, stats    in the order of the requests
//!           <───────────────────────  ended     the last line, before the process ends
//! ```
//!
//! The end of the stream, in either direction, is the end of the machine. What the monitor says
//! is not trusted: the guest may have taken it over.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Descriptor of the agent's stream in the monitor.
pub const AGENT_FD: i32 = 3;

/// Descriptor of the control stream in the monitor.
pub const CONTROL_FD: i32 = 4;

/// Descriptor of the serial console in the monitor.
pub const CONSOLE_FD: i32 = 5;

/// Descriptor of the network's link in the monitor, where the guest has a network.
pub const NETWORK_FD: i32 = 6;

/// Longest line either side accepts, in bytes: a machine with its paths and command line.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Most virtual CPUs of a machine.
pub const MAX_VCPUS: u8 = 32;

/// A machine to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineDescription {
    /// The kernel: an ELF file with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initramfs: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
    /// Virtual CPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Its disks, `/dev/vda` first.
    pub disks: Vec<Disk>,
    /// Its network device, if it has one; its link is [`NETWORK_FD`].
    pub network: Option<NetworkInterface>,
}

/// A disk: a file of raw blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// The name by which the guest knows it; 20 bytes of it are told.
    pub serial: String,
    /// Whether the guest may only read it.
    pub is_read_only: bool,
}

/// The guest's network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Largest packet without its Ethernet header, in bytes.
    pub mtu: u16,
}

/// What the supervisor asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Boot this machine; the first request, and the only one of its kind.
    Boot(MachineDescription),
    /// Hold all processors still.
    Pause,
    /// Let them go on.
    Resume,
    /// Press the power button.
    PowerButton,
    /// Tell the guest, by another VM generation ID, that it is another machine than it was: what it
    /// takes for random and its own may be known elsewhere.
    RenewGenerationId,
    /// Say what the machine has done so far.
    Stats,
}

/// What the monitor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// What was asked for has been done.
    Done,
    /// What was asked for cannot be done.
    Refused {
        /// Why not: a chain of causes.
        message: String,
    },
    /// What the machine has done so far.
    Stats(MachineStats),
    /// The machine has ended. Answers no request.
    Ended(MachineEnd),
}

/// What a machine has done since it was booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineStats {
    /// How often a processor left the guest for a port of the machine.
    pub port_exits: u64,
    /// How often a processor left the guest for a register of a device.
    pub mmio_exits: u64,
    /// How often a processor left the guest for something else.
    pub other_exits: u64,
    /// What its disks have read for the guest, and written.
    pub disks: Traffic,
    /// Its frames.
    pub network: Traffic,
}

/// What a kind of device has passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// What the guest has got: requests to read, or frames.
    pub to_guest: Flow,
    /// What the guest has given.
    pub from_guest: Flow,
}

/// What has gone one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Requests or frames.
    pub count: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Why a machine has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MachineEnd {
    /// The guest powered off.
    PoweredOff,
    /// The guest reset the machine; a kernel that panics does so too.
    Reset,
    /// KVM could not go on.
    Failed {
        /// What happened, with the processor's state where it helps.
        message: String,
    },
}
