//! The serial port, on which the guest's console is. What it says goes to a stream of the host.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::layout::SERIAL_PORT;

/// Registers of a 16550A.
const REGISTERS: u16 = 8;

/// The interrupt of the serial port.
#[derive(Debug)]
struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Where the console's text goes. A host that does not read loses it: the guest never waits.
#[derive(Debug)]
struct Output(UnixStream);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The serial port.
pub(crate) struct SerialPort {
    chip: Serial<Interrupt, NoEvents, Output>,
}

impl SerialPort {
    /// Makes the port. `output` does not block.
    pub(crate) fn new(interrupt: EventFd, output: UnixStream) -> io::Result<Self> {
        output.set_nonblocking(true)?;
        Ok(Self {
            chip: Serial::new(Interrupt(interrupt), Output(output)),
        })
    }

    /// Returns which register a port is, if it is one of these.
    pub(crate) fn register(port: u16) -> Option<u8> {
        let offset = port.checked_sub(SERIAL_PORT)?;
        u8::try_from(offset).ok().filter(|_| offset < REGISTERS)
    }

    pub(crate) fn read(&mut self, register: u8) -> u8 {
        self.chip.read(register)
    }

    pub(crate) fn write(&mut self, register: u8, value: u8) {
        // The interrupt's event is full only when nobody looks at it.
        let _lost = self.chip.write(register, value);
    }
}
