//! What fuzz targets drive: the parts of the monitor that take what a guest, a file or the
//! supervisor says, without KVM and without threads.
//!
//! ```text
//!   [`Device`]       a virtio device: its registers, its queues, memory of its own
//!   [`Ports`]        what a processor finds at the machine's ports
//!   [`load`]         kernel and initial file system, into memory
//!   [`requests`]     the control protocol, as the monitor reads it
//! ```
//!
//! It is for `fuzz/bodies` alone: no program links this crate. It only wraps what the machine itself
//! uses; what is fuzzed is what runs.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Once;

use smolvm_protocol::AGENT_PORT;
use smolvm_protocol::vmm::{NetworkInterface, Request};
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

use crate::boot::kernel::Entry;
use crate::boot::{acpi, kernel, start};
use crate::devices::serial::SerialPort;
use crate::devices::virtio::balloon::BalloonDevice;
use crate::devices::virtio::block::BlockDevice;
use crate::devices::virtio::console::ConsoleDevice;
use crate::devices::virtio::device::{DeviceInterrupt, VirtioDevice};
use crate::devices::virtio::network::NetworkDevice;
use crate::devices::virtio::random::RandomDevice;
use crate::devices::virtio::transport::Slot;
use crate::machine::control::{self, Event};
use crate::machine::platform::Platform;
use crate::memory::GuestRam;

/// Processors and devices that the tables of [`load`] name.
const VCPUS: u8 = 2;
const DEVICES: usize = 6;

/// The network device that targets drive.
const INTERFACE: NetworkInterface = NetworkInterface {
    mac: [2, 0, 0, 0, 0, 1],
    mtu: 1500,
};

/// A virtio device and memory of its own, as a driver finds them.
pub struct Device {
    slot: Slot,
    ram: GuestRam,
    interrupt: EventFd,
}

impl Device {
    /// Makes a disk of a file.
    ///
    /// # Errors
    ///
    /// When the host refuses memory or an event; so do the others.
    pub fn block(file: File, is_read_only: bool, memory_bytes: u64) -> io::Result<Self> {
        Self::new(BlockDevice::new(file, "disk", is_read_only)?, memory_bytes)
    }

    /// Makes a console whose port leads to `stream`.
    ///
    /// # Errors
    ///
    /// See [`Device::block`].
    pub fn console(stream: UnixStream, memory_bytes: u64) -> io::Result<Self> {
        ignore_broken_pipes();
        Self::new(ConsoleDevice::new(AGENT_PORT, stream)?, memory_bytes)
    }

    /// Makes a network device whose link is `link`.
    ///
    /// # Errors
    ///
    /// See [`Device::block`].
    pub fn network(link: UnixStream, memory_bytes: u64) -> io::Result<Self> {
        ignore_broken_pipes();
        Self::new(NetworkDevice::new(INTERFACE, link)?, memory_bytes)
    }

    /// Makes an entropy device.
    ///
    /// # Errors
    ///
    /// See [`Device::block`].
    pub fn random(memory_bytes: u64) -> io::Result<Self> {
        Self::new(RandomDevice, memory_bytes)
    }

    /// Makes a balloon.
    ///
    /// # Errors
    ///
    /// See [`Device::block`].
    pub fn balloon(memory_bytes: u64) -> io::Result<Self> {
        Self::new(BalloonDevice, memory_bytes)
    }

    fn new(device: impl VirtioDevice + 'static, memory_bytes: u64) -> io::Result<Self> {
        let ram = GuestRam::new(memory_bytes).map_err(io::Error::other)?;
        let event = EventFd::new(libc::EFD_NONBLOCK)?;
        let interrupt = event.try_clone()?;
        let memory = ram.memory().clone();
        let slot = Slot::new(Box::new(device), memory, DeviceInterrupt::new(event))?;
        Ok(Self {
            slot,
            ram,
            interrupt,
        })
    }

    /// Returns how many queues it has.
    #[must_use]
    pub const fn queue_count(&self) -> usize {
        self.slot.queue_count()
    }

    /// Reads its registers, with an access of any width.
    pub fn read_register(&self, offset: u64, data: &mut [u8]) {
        self.slot.read(offset, data);
    }

    /// Writes its registers.
    pub fn write_register(&self, offset: u64, data: &[u8]) {
        self.slot.write(offset, data);
    }

    /// Rings the doorbell of a queue, and has the device have a turn.
    pub fn kick(&self, queue: usize) {
        let _more = self.slot.kicked(queue);
    }

    /// Tells the device that what it waits for on the host is ready, and has it have a turn.
    pub fn source_ready(&self) {
        let _more = self.slot.source_ready();
    }

    /// Returns whether it has raised its interrupt since the last call.
    #[must_use]
    pub fn was_interrupted(&self) -> bool {
        self.interrupt.read().is_ok()
    }

    /// Reads from its memory. Returns whether all of the range is there; nothing is read otherwise.
    pub fn read_memory(&self, address: u64, bytes: &mut [u8]) -> bool {
        let memory = self.ram.memory();
        memory.read_slice(bytes, GuestAddress(address)).is_ok()
    }

    /// Writes to its memory, as far as the range is there.
    pub fn write_memory(&self, address: u64, bytes: &[u8]) {
        // What lies outside is for no one.
        let _partial = self.ram.memory().write(bytes, GuestAddress(address));
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Device").finish_non_exhaustive()
    }
}

/// Has a write to a closed socket be an error. Rust's own programs start so, libFuzzer's do not.
fn ignore_broken_pipes() {
    extern "C" fn nothing(
        _number: libc::c_int,
        _info: *mut libc::siginfo_t,
        _context: *mut libc::c_void,
    ) {
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        register_signal_handler(libc::SIGPIPE, nothing).expect("a signal that can be handled");
    });
}

/// The machine's ports: the serial port, and those to sleep and to reset.
#[derive(Debug)]
pub struct Ports {
    platform: Platform,
}

impl Ports {
    /// Makes the ports; the serial port's text goes to `console`.
    ///
    /// # Errors
    ///
    /// When the host refuses an event.
    pub fn new(console: UnixStream) -> io::Result<Self> {
        ignore_broken_pipes();
        let serial = SerialPort::new(EventFd::new(libc::EFD_NONBLOCK)?, console)?;
        Ok(Self {
            platform: Platform::new(serial, Vec::new()),
        })
    }

    /// Reads a port, with an access of any width.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        self.platform.read_port(port, data);
    }

    /// Writes a port. Returns whether the machine ends by that.
    #[must_use]
    pub fn write(&self, port: u16, data: &[u8]) -> bool {
        self.platform.write_port(port, data).is_some()
    }
}

/// A kernel that has been loaded.
#[derive(Debug)]
pub struct LoadedKernel {
    /// Where it is entered.
    pub entry: u64,
    /// Where the initial file system is.
    pub initramfs: Range<u64>,
    ram: GuestRam,
}

impl LoadedKernel {
    /// Reads from the guest's memory. Returns whether all of the range is there.
    pub fn read_memory(&self, address: u64, bytes: &mut [u8]) -> bool {
        let memory = self.ram.memory();
        memory.read_slice(bytes, GuestAddress(address)).is_ok()
    }
}

/// Loads kernel, initial file system and command line into new memory, with all that a kernel is
/// told at its start.
///
/// # Errors
///
/// When they cannot be booted; the text says why.
pub fn load(
    kernel: &Path,
    initramfs: &Path,
    command_line: &str,
    memory_bytes: u64,
) -> Result<LoadedKernel, String> {
    let ram = GuestRam::new(memory_bytes).map_err(|error| error.to_string())?;
    let loaded = kernel::load(&ram, kernel, initramfs, command_line);
    let loaded = loaded.map_err(|error| error.to_string())?;
    let rsdp = acpi::write(ram.memory(), VCPUS, DEVICES).map_err(|error| error.to_string())?;
    start::write(&ram, &loaded, rsdp).map_err(|error| error.to_string())?;
    let (Entry::Pvh(entry) | Entry::Linux64(entry, _)) = loaded.entry;
    let (start, size) = loaded.initramfs;
    Ok(LoadedKernel {
        entry,
        initramfs: start..start + size,
        ram,
    })
}

/// Reads what a supervisor sends, to its end or to a line that is no line of the protocol. What is
/// no request is what the monitor answers to it.
#[must_use]
pub fn requests(stream: impl Read) -> Vec<Result<Request, String>> {
    let mut lines = BufReader::new(stream);
    std::iter::from_fn(|| match control::next(&mut lines) {
        Event::Request(request) => Some(Ok(request)),
        Event::Nonsense(reason) => Some(Err(reason)),
        Event::Gone | Event::Ended(_) => None,
    })
    .collect()
}
