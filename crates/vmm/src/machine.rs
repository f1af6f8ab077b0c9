//! One machine, from its description to its end.
//!
//! ```text
//!   description ──> memory ──> KVM ──> kernel, tables ──> devices ──> workers ──> processors
//!        ^                                                               │            │
//!        │                                                          events of the     │ exits
//!     [`control`]  <── requests ── supervisor                       host and guest    v
//!        │                                                               │      [`Platform`]
//!        └────── pause, resume, power button ──> [`processors`]          └──> devices
//! ```
//!
//! Threads: one for each processor, one for each disk, one for the other devices, and the main
//! thread for requests. The process ends with the machine, and all threads with it.

pub(crate) mod control;
pub(crate) mod platform;
mod processors;
mod workers;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use smolvm_protocol::AGENT_PORT;
use smolvm_protocol::vmm::{Disk, MAX_VCPUS, MachineDescription, MachineEnd, MachineStats};
use vm_memory::GuestMemoryError;
use vmm_sys_util::eventfd::EventFd;

pub use control::run;

use platform::Platform;
use processors::Processors;

use crate::boot::kernel::{Entry, LoadError};
use crate::boot::{acpi, kernel, layout, start};
use crate::devices::generation::GenerationId;
use crate::devices::serial::SerialPort;
use crate::devices::virtio::balloon::BalloonDevice;
use crate::devices::virtio::block::BlockDevice;
use crate::devices::virtio::console::ConsoleDevice;
use crate::devices::virtio::device::{DeviceInterrupt, VirtioDevice};
use crate::devices::virtio::network::NetworkDevice;
use crate::devices::virtio::random::RandomDevice;
use crate::devices::virtio::transport::{DOORBELL, Slot};
use crate::jail::filters::ThreadKind;
use crate::jail::{self, JailError};
use crate::kvm::{KvmError, KvmMachine, Vcpu};
use crate::memory::{GuestRam, MemoryError};

/// Least memory of a machine, in MiB: what the tables and a small kernel need.
const MIN_MEMORY_MIB: u32 = 16;

/// Devices that every machine has beside its disks: console, entropy, balloon.
const OTHER_DEVICES: usize = 3;

/// Most memory of a machine, in MiB: 1 TiB, which every processor can address.
const MAX_MEMORY_MIB: u32 = 1 << 20;

/// What a machine is connected to.
#[derive(Debug)]
pub(crate) struct Connections {
    /// The stream of the agent's port.
    pub(crate) agent: UnixStream,
    /// Where the serial console's text goes.
    pub(crate) console: UnixStream,
    /// The network's link, where the guest has a network.
    pub(crate) network: Option<UnixStream>,
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It cannot be a machine.
    #[error("{reason}")]
    Description {
        /// What is wrong with its description.
        reason: String,
    },
    /// A file of a disk could not be opened.
    #[error("open the disk {}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Its kernel or initial file system could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What the kernel is told does not fit into its memory.
    #[error("write what the kernel is told")]
    Tables(#[from] GuestMemoryError),
    /// This process could not be confined.
    #[error("confine the monitor")]
    Jail(#[from] JailError),
    /// A thread or an event of ours could not be made.
    #[error("{step}")]
    Host {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Says what was to be done when the host refuses.
fn host(step: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Host { step, source }
}

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct Machine {
    platform: Arc<Platform>,
    processors: Processors,
    power_button: EventFd,
    generation: GenerationId,
    // Last, so that memory and virtual machine outlive what works with them.
    _kvm: KvmMachine,
}

impl Machine {
    /// Starts the machine of `description`. What becomes of it goes to `ends`.
    pub(crate) fn start(
        description: &MachineDescription,
        connections: Connections,
        ends: &Sender<MachineEnd>,
    ) -> Result<Self, StartError> {
        check(description)?;
        let kvm = KvmMachine::new(GuestRam::new(u64::from(description.memory_mib) << 20)?)?;
        let loaded = kernel::load(
            kvm.ram(),
            &description.kernel,
            &description.initramfs,
            &description.command_line,
        )?;
        let serial = kvm.interrupt(layout::SERIAL_INTERRUPT)?;
        let serial = SerialPort::new(serial, connections.console)
            .map_err(host("set up the console's stream"))?;
        let devices = devices(description, connections.agent, connections.network)?;
        let rsdp = acpi::write(kvm.ram().memory(), description.vcpus, devices.len())?;
        start::write(kvm.ram(), &loaded, rsdp)?;
        let mut slots = Vec::new();
        let mut doorbells = Vec::new();
        for (index, device) in devices.into_iter().enumerate() {
            let slot = slot(&kvm, index, device)?;
            doorbells.push(ring_for(&kvm, index, &slot)?);
            slots.push(slot);
        }
        let disks = description.disks.len();
        let vcpus = vcpus(&kvm, description.vcpus, &loaded.entry)?;
        let power_button = kvm.interrupt(layout::POWER_BUTTON_INTERRUPT)?;
        let changed = kvm.interrupt(layout::GENERATION_INTERRUPT)?;
        let generation = GenerationId::new(kvm.ram().memory().clone(), changed)
            .map_err(host("make the generation ID"))?;
        // All files are open. The threads begin with what is left to this one.
        jail::give_up()?;
        let platform = Arc::new(Platform::new(serial, slots));
        workers::start(&platform, doorbells, disks).map_err(host("start the devices' threads"))?;
        let processors = Processors::start(vcpus, &platform, ends)
            .map_err(host("start the processors' threads"))?;
        jail::confine(ThreadKind::Control)?;
        Ok(Self {
            platform,
            processors,
            power_button,
            generation,
            _kvm: kvm,
        })
    }

    /// Holds all processors still. Returns when they stand.
    pub(crate) fn pause(&self) {
        self.processors.pause();
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.processors.resume();
    }

    /// Presses the power button.
    pub(crate) fn press_power_button(&self) -> io::Result<()> {
        self.power_button.write(1)
    }

    /// Gives the machine another generation ID, and tells the guest.
    pub(crate) fn renew_generation_id(&self) -> io::Result<()> {
        self.generation.renew()
    }

    /// Returns what the machine has done so far.
    pub(crate) fn stats(&self) -> MachineStats {
        self.platform.stats()
    }
}

fn check(description: &MachineDescription) -> Result<(), StartError> {
    let refuse = |reason: String| Err(StartError::Description { reason });
    let MachineDescription {
        vcpus, memory_mib, ..
    } = *description;
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        return refuse(format!("{vcpus} processors: 1 to {MAX_VCPUS} are possible"));
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory_mib) {
        return refuse(format!(
            "{memory_mib} MiB of memory: {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} are possible"
        ));
    }
    let host_mib = host_memory_mib();
    if u64::from(memory_mib) > host_mib {
        return refuse(format!(
            "{memory_mib} MiB of memory: this host has {host_mib} MiB with its swap; ask for less"
        ));
    }
    let others = OTHER_DEVICES + usize::from(description.network.is_some());
    if description.disks.len() + others > layout::MAX_VIRTIO_DEVICES {
        let most = layout::MAX_VIRTIO_DEVICES - others;
        let count = description.disks.len();
        return refuse(format!("{count} disks: {most} at most are possible"));
    }
    Ok(())
}

/// Returns how much memory the host has, with what it can swap out. A machine with more would run
/// until the host has to end something: Linux refuses an ordinary program that asks for so much at
/// once (Linux 6.12, mm/util.c, `__vm_enough_memory`), but not one that maps it without reserve.
fn host_memory_mib() -> u64 {
    let host = rustix::system::sysinfo();
    let units = u64::from(host.mem_unit);
    (host.totalram.saturating_add(host.totalswap)).saturating_mul(units) >> 20
}

/// Makes the devices, the disks first.
fn devices(
    description: &MachineDescription,
    agent: UnixStream,
    network: Option<UnixStream>,
) -> Result<Vec<Box<dyn VirtioDevice>>, StartError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in &description.disks {
        let opened = open_disk(disk)
            .and_then(|file| BlockDevice::new(file, &disk.serial, disk.is_read_only));
        devices.push(Box::new(opened.map_err(|source| StartError::Disk {
            path: disk.path.clone(),
            source,
        })?));
    }
    let console =
        ConsoleDevice::new(AGENT_PORT, agent).map_err(host("set up the agent's stream"))?;
    devices.push(Box::new(console));
    devices.push(Box::new(RandomDevice));
    devices.push(Box::new(BalloonDevice));
    if let (Some(interface), Some(link)) = (description.network, network) {
        let network =
            NetworkDevice::new(interface, link).map_err(host("set up the network's link"))?;
        devices.push(Box::new(network));
    }
    Ok(devices)
}

fn open_disk(disk: &Disk) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(!disk.is_read_only);
    kernel::regular_file(&mut options, &disk.path)
}

fn slot(kvm: &KvmMachine, index: usize, device: Box<dyn VirtioDevice>) -> Result<Slot, StartError> {
    let interrupt = DeviceInterrupt::new(kvm.interrupt(acpi::virtio_interrupt(index))?);
    let memory = kvm.ram().memory().clone();
    Slot::new(device, memory, interrupt).map_err(host("watch a device's stream"))
}

/// Returns the doorbells of a device, one for each queue.
fn ring_for(kvm: &KvmMachine, index: usize, slot: &Slot) -> Result<Vec<EventFd>, KvmError> {
    let address = acpi::virtio_registers(index) + DOORBELL;
    let queues = 0..u32::try_from(slot.queue_count()).expect("a handful");
    queues.map(|queue| kvm.doorbell(address, queue)).collect()
}

fn vcpus(kvm: &KvmMachine, count: u8, entry: &Entry) -> Result<Vec<Vcpu>, KvmError> {
    let vcpus: Result<Vec<_>, _> = (0..count)
        .map(|index| Vcpu::new(kvm, index, count))
        .collect();
    let vcpus = vcpus?;
    vcpus[0].enter(entry)?;
    Ok(vcpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(change: impl FnOnce(&mut MachineDescription)) -> MachineDescription {
        let mut description = MachineDescription {
            kernel: "/kernel".into(),
            initramfs: "/initramfs".into(),
            command_line: String::new(),
            vcpus: 1,
            memory_mib: MIN_MEMORY_MIB,
            disks: Vec::new(),
            network: None,
        };
        change(&mut description);
        description
    }

    fn refusal(change: impl FnOnce(&mut MachineDescription)) -> String {
        check(&description(change)).unwrap_err().to_string()
    }

    fn disk(path: &str) -> Disk {
        Disk {
            path: path.into(),
            serial: "disk".to_owned(),
            is_read_only: false,
        }
    }

    #[test]
    fn machine_that_cannot_be_is_refused_with_what_can() {
        check(&description(|_| {})).unwrap();
        assert_eq!(
            refusal(|machine| machine.vcpus = 33),
            "33 processors: 1 to 32 are possible"
        );
        assert_eq!(
            refusal(|machine| machine.memory_mib = 15),
            "15 MiB of memory: 16 to 1048576 are possible"
        );
        let disks = refusal(|machine| machine.disks = vec![disk("/disk"); 15]);
        assert_eq!(disks, "15 disks: 14 at most are possible");
    }

    #[test]
    fn more_memory_than_the_host_has_is_refused_with_how_much_it_has() {
        let host_mib = u32::try_from(host_memory_mib()).unwrap();
        check(&description(|machine| machine.memory_mib = host_mib)).unwrap();
        let refusal = refusal(|machine| machine.memory_mib = host_mib + 1);
        assert!(
            refusal.contains(&format!("this host has {host_mib} MiB")),
            "{refusal}"
        );
    }

    #[test]
    fn disk_that_is_a_directory_or_may_not_be_written_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let refused = open_disk(&Disk {
            is_read_only: true,
            ..disk(path)
        });
        assert_eq!(refused.unwrap_err().to_string(), "not a regular file");
        assert!(open_disk(&disk(path)).is_err());
        // Nobody may write to this file, not even root (Linux 6.12, fs/kernfs/file.c,
        // `KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK`).
        let unwritable = "/sys/kernel/uevent_seqnum";
        let refused = open_disk(&disk(unwritable)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        open_disk(&Disk {
            is_read_only: true,
            ..disk(unwritable)
        })
        .unwrap();
    }
}
