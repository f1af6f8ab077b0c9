//! What a caller asks for: names and sizes that are legal by construction.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smolvm_network::NetworkPolicy;

use crate::engine::Accelerator;
use crate::{ErrorKind, Networks, PortForwards, SecretGrant};

/// Why a value of a specification is not legal.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The sandbox name breaks the rule for names.
    #[error(
        "invalid sandbox name {name:?}: use 1 to 64 of a-z, 0-9, `-` and `_`, with a letter or \
         digit at both ends"
    )]
    Name {
        /// The name as given, cut to a printable length.
        name: String,
    },
    /// A number is out of its range.
    #[error("{what} is {value} {unit}; it must be {min} to {max} {unit}")]
    OutOfRange {
        /// What the number is, such as `memory`.
        what: &'static str,
        /// The number given.
        value: u64,
        /// Least legal value.
        min: u64,
        /// Greatest legal value.
        max: u64,
        /// Unit of all three.
        unit: &'static str,
    },
    /// The engine's name is not known.
    #[error("unknown engine {name:?}: use auto, kvm or qemu")]
    Engine {
        /// The name as given.
        name: String,
    },
}

impl SpecError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

/// Name of a sandbox; unique in its data directory, and the guest's host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    /// Longest name, in bytes: what a host name label may have at most, plus one (RFC 1035
    /// §2.3.4 allows 63; the interface this follows allows 64).
    pub const MAX_BYTES: usize = 64;

    /// Returns a new random name of the form `vm-` and eight hexadecimal digits.
    ///
    /// # Panics
    ///
    /// When the kernel has no random numbers to give.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0_u8; 4];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .expect("getrandom of four bytes neither blocks after boot nor fails (getrandom(2))");
        Self(format!("vm-{:08x}", u32::from_be_bytes(bytes)))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = SpecError;

    fn from_str(name: &str) -> Result<Self, SpecError> {
        if is_legal_name(name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(SpecError::Name {
                name: name.chars().take(80).collect(),
            })
        }
    }
}

/// Tells whether a text can be the name of a sandbox, or of what sandboxes share.
pub(crate) fn is_legal_name(name: &str) -> bool {
    let is_edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_inner = |byte: u8| is_edge(byte) || byte == b'-' || byte == b'_';
    let bytes = name.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            bytes.len() <= SandboxId::MAX_BYTES
                && is_edge(first)
                && is_edge(last)
                && bytes.iter().copied().all(is_inner)
        }
        _ => false,
    }
}

impl TryFrom<String> for SandboxId {
    type Error = SpecError;

    fn try_from(name: String) -> Result<Self, SpecError> {
        name.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! bounded_number {
    ($(#[$doc:meta])* $name:ident, $what:literal, $unit:literal, $min:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "u32", into = "u32")]
        pub struct $name(u32);

        impl $name {
            /// Least legal value.
            pub const MIN: u32 = $min;
            /// Greatest legal value.
            pub const MAX: u32 = $max;

            /// Returns the number.
            #[must_use]
            pub const fn get(self) -> u32 {
                self.0
            }

            const fn constant(value: u32) -> Self {
                assert!(value >= Self::MIN && value <= Self::MAX);
                Self(value)
            }
        }

        impl TryFrom<u32> for $name {
            type Error = SpecError;

            fn try_from(value: u32) -> Result<Self, SpecError> {
                Self::try_from(u64::from(value))
            }
        }

        impl TryFrom<u64> for $name {
            type Error = SpecError;

            fn try_from(value: u64) -> Result<Self, SpecError> {
                match u32::try_from(value) {
                    Ok(number) if (Self::MIN..=Self::MAX).contains(&number) => Ok(Self(number)),
                    _ => Err(SpecError::OutOfRange {
                        what: $what,
                        value,
                        min: u64::from(Self::MIN),
                        max: u64::from(Self::MAX),
                        unit: $unit,
                    }),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(number: $name) -> Self {
                number.0
            }
        }
    };
}

bounded_number!(
    /// Number of virtual CPUs of a machine.
    VcpuCount, "cpus", "CPUs", 1, 32
);
bounded_number!(
    /// Memory of a machine, in MiB.
    MemoryMib, "memory", "MiB", 128, 16_384
);
bounded_number!(
    /// Size of a sandbox's writable disk, in MiB.
    DiskMib, "disk size", "MiB", 64, 1_048_576
);

/// One virtual CPU: what most tools an agent runs can use, and the quickest to boot.
pub const DEFAULT_VCPUS: VcpuCount = VcpuCount::constant(1);

/// 512 MiB: room for the guest's ~115 MB and a Python or Node program.
pub const DEFAULT_MEMORY: MemoryMib = MemoryMib::constant(512);

/// 2 GiB, sparse: a few Python environments; nothing is used on the host until it is written.
pub const DEFAULT_DISK: DiskMib = DiskMib::constant(2048);

/// Which engine a sandbox asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// The best that works on this host.
    #[default]
    Auto,
    /// Our own monitor on KVM, where that is usable.
    Kvm,
    /// QEMU's microvm machine, with KVM where that is usable and software emulation elsewhere.
    Qemu,
    /// No machine at all: a scripted guest inside the supervisor, for tests.
    Fake,
}

impl EngineChoice {
    /// Returns the name as the command line spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
            Self::Fake => "fake",
        }
    }

    /// Returns the engine that is meant on a host whose machines are executed like this: where KVM is
    /// usable, the best one is our own monitor.
    #[must_use]
    pub const fn resolved(self, accelerator: Accelerator) -> Self {
        match (self, accelerator) {
            (Self::Auto, Accelerator::Kvm) => Self::Kvm,
            (Self::Auto, Accelerator::SoftwareEmulation) => Self::Qemu,
            (named, _) => named,
        }
    }
}

impl FromStr for EngineChoice {
    type Err = SpecError;

    fn from_str(name: &str) -> Result<Self, SpecError> {
        match name {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "qemu" => Ok(Self::Qemu),
            "fake" => Ok(Self::Fake),
            _ => Err(SpecError::Engine {
                name: name.chars().take(80).collect(),
            }),
        }
    }
}

/// How long a sandbox lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent,
    /// Until the process that created it goes, or lets go of it.
    Leased,
}

/// A sandbox as asked for: legal, and complete but for what the host decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    /// Its name.
    pub id: SandboxId,
    /// Name of the image it runs.
    pub image: String,
    /// Its engine.
    pub engine: EngineChoice,
    /// Its virtual CPUs.
    pub vcpus: VcpuCount,
    /// Its memory.
    pub memory: MemoryMib,
    /// Size of its writable disk.
    pub disk: DiskMib,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Whether its first start boots its kernel too, instead of going on from a template.
    #[serde(default)]
    pub boots_cold: bool,
    /// What its owner has written on it: names and values, for people and programs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Milliseconds without any operation after which it ends.
    #[serde(default)]
    pub idle_timeout_ms: Option<u64>,
    /// Milliseconds from when it is ready after which it ends, whoever uses it.
    #[serde(default)]
    pub max_lifetime_ms: Option<u64>,
    /// Processes and threads that all commands together may have.
    #[serde(default)]
    pub max_processes: Option<u32>,
    /// Files to boot from instead of those of the image.
    #[serde(default)]
    pub custom: Option<CustomBoot>,
    /// What it may reach.
    #[serde(default)]
    pub network: NetworkPolicy,
    /// The private networks that it is in.
    #[serde(default)]
    pub networks: Networks,
    /// How fast it may send and receive, in megabits (10^6 bits) per second.
    #[serde(default)]
    pub network_rate_mbps: Option<u32>,
    /// Its secrets, without their values.
    #[serde(default)]
    pub secrets: Vec<SecretGrant>,
    /// Which requests it may make, as text: see [`HttpRule`](smolvm_network::HttpRule).
    #[serde(default)]
    pub http_rules: Vec<String>,
    /// Whether its disk stays when it is deleted, for the next sandbox of the same name.
    #[serde(default)]
    pub keeps_disk: bool,
    /// Ports that are exposed whenever it runs.
    #[serde(default)]
    pub port_forwards: PortForwards,
    /// What its guest does before it is shut down.
    #[serde(default)]
    pub at_end: Option<AtEnd>,
}

/// What a guest does before it is shut down: by a stop that has patience, by a deadline, or because the
/// host goes down. A sandbox that is killed, deleted, or left by its owner does nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtEnd {
    /// The program, looked up in `PATH` unless it has a slash, and its arguments. Run as root.
    pub command: Vec<String>,
    /// Milliseconds that it has.
    pub patience_ms: u64,
    /// File of the host that receives its standard output, when it exits with 0: new or replaced,
    /// and complete.
    pub output: PathBuf,
    /// Most bytes of output that are taken. A command that has more is treated as one that failed.
    pub max_output_bytes: u64,
}

/// Files of the user's own that a machine boots from. What is absent comes from the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomBoot {
    /// The kernel: an ELF file with a PVH entry, or a bzImage.
    pub kernel: Option<PathBuf>,
    /// The root file system: ext4, squashfs or erofs (this where the kernel has it built in).
    pub root_image: Option<PathBuf>,
    /// An initramfs that is unpacked before ours.
    pub initramfs: Option<PathBuf>,
    /// More disks, in this order.
    pub extra_drives: Vec<PathBuf>,
    /// More of the kernel's command line.
    pub boot_args: Option<String>,
    /// Whether the guest writes to the root file system itself rather than to a layer over it.
    pub is_shared: bool,
}

impl SandboxSpec {
    /// Returns a specification with every default, for the default image.
    #[must_use]
    pub fn new(id: SandboxId, lifetime: Lifetime) -> Self {
        Self {
            id,
            image: smolvm_image::DEFAULT_IMAGE.to_owned(),
            engine: EngineChoice::default(),
            vcpus: DEFAULT_VCPUS,
            memory: DEFAULT_MEMORY,
            disk: DEFAULT_DISK,
            lifetime,
            boots_cold: false,
            labels: BTreeMap::new(),
            idle_timeout_ms: None,
            max_lifetime_ms: None,
            max_processes: None,
            custom: None,
            network: NetworkPolicy::default(),
            networks: Networks::default(),
            network_rate_mbps: None,
            secrets: Vec::new(),
            http_rules: Vec::new(),
            keeps_disk: false,
            port_forwards: PortForwards::default(),
            at_end: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn own_monitor_is_chosen_where_kvm_is_usable_and_only_there() {
        use EngineChoice::{Auto, Kvm, Qemu};
        assert_eq!(Auto.resolved(Accelerator::Kvm), Kvm);
        assert_eq!(Auto.resolved(Accelerator::SoftwareEmulation), Qemu);
        assert_eq!(Qemu.resolved(Accelerator::Kvm), Qemu);
        // Not quietly another one: it is refused where it cannot be.
        assert_eq!(Kvm.resolved(Accelerator::SoftwareEmulation), Kvm);
    }

    #[test]
    fn names_of_the_interface_are_accepted() {
        for name in [
            "a",
            "7",
            "vm-00ff",
            "agent-workspace",
            "a_b-c",
            &"x".repeat(64),
        ] {
            assert!(name.parse::<SandboxId>().is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_could_leave_the_store_or_hide_in_it_are_refused() {
        let too_long = "x".repeat(65);
        for name in [
            "", ".", "..", "../x", "a/b", ".new-1", "-a", "a-", "A", "ä", "a b", &too_long,
        ] {
            assert!(name.parse::<SandboxId>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn memory_out_of_range_names_field_value_and_range() {
        let error = MemoryMib::try_from(64_u32).expect_err("64 MiB is too little");
        assert_eq!(
            error.to_string(),
            "memory is 64 MiB; it must be 128 to 16384 MiB"
        );
    }

    proptest! {
        #[test]
        fn accepted_names_are_safe_file_names(name in ".{0,70}") {
            if let Ok(id) = name.parse::<SandboxId>() {
                prop_assert!(!id.as_str().contains(['/', '.', '\0']));
                prop_assert!(!id.as_str().is_empty() && id.as_str().len() <= 64);
            }
        }

        #[test]
        fn random_names_are_legal(_seed in any::<u8>()) {
            prop_assert!(SandboxId::random().as_str().parse::<SandboxId>().is_ok());
        }
    }
}
