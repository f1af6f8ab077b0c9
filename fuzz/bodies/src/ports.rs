//! Accesses to the machine's ports: any port, any width.
//!
//! The serial port's text is what was written to it, as long as its host reads, and never holds the
//! guest up when it does not. The machine ends by the registers for it, and by no others.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;

use smolvm_vmm::fuzzing::Ports;

use crate::script::Script;

// The registers of a 16550 that say what becomes of a byte, and their bits.
const SERIAL: u16 = 0x3f8;
const LINE_CONTROL: u16 = SERIAL + 3;
const DIVISOR_LATCH: u8 = 1 << 7;
const MODEM_CONTROL: u16 = SERIAL + 4;
const LOOPBACK: u8 = 1 << 4;
const SERIAL_END: u16 = SERIAL + 8;

/// How often each write of an input is done at most: some of them fill a socket, one does not.
const MAX_REPEATS: usize = 128;

/// Accesses of one input; more would only make it slower.
const MAX_ACCESSES: usize = 256;

/// What the serial port's text must be.
#[derive(Default)]
struct Model {
    line_control: u8,
    modem_control: u8,
    text: Vec<u8>,
}

impl Model {
    fn write(&mut self, port: u16, value: u8) {
        match port {
            SERIAL
                if (self.line_control & DIVISOR_LATCH) | (self.modem_control & LOOPBACK) == 0 =>
            {
                self.text.push(value);
            }
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value,
            _ => {}
        }
    }
}

/// Accesses ports. The first byte says whether the console's host reads.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let Some(kind) = script.byte() else {
        return;
    };
    let reads = kind & 1 == 0;
    let (mut host, console) = UnixStream::pair().expect("a pair of sockets");
    host.set_nonblocking(true).expect("a socket of ours");
    let ports = Ports::new(console).expect("an event");
    let mut model = Model::default();
    for _ in 0..MAX_ACCESSES {
        if access(&ports, &mut script, &mut model).is_none() {
            break;
        }
        if reads {
            let mut text = vec![0; MAX_REPEATS * 2];
            let count = match host.read(&mut text) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                count => count.expect("a socket of ours"),
            };
            assert!(text[..count] == model.text);
            model.text.clear();
        }
    }
}

fn access(ports: &Ports, script: &mut Script<'_>, model: &mut Model) -> Option<()> {
    let (kind, port) = (script.byte()?, script.half()?);
    // Most accesses are to the ports that there are.
    let port = match kind & 0xc0 {
        0 => SERIAL + port % 8,
        0x40 => 0x600 + port % 3,
        _ => port,
    };
    let width = if kind & 8 == 0 { 1 } else { 1 << (kind & 3) };
    if kind & 0x20 == 0 {
        let mut data = [0xaa; 8];
        ports.read(port, &mut data[..width]);
        let is_serial = (SERIAL..SERIAL_END).contains(&port) && width == 1;
        assert!(is_serial || data[..width] == [0xff; 8][..width]);
        assert_eq!(data[width..], [0xaa; 8][width..]);
        return Some(());
    }
    let value = script.byte()?;
    let repeats = if kind & 0x10 == 0 { 1 } else { MAX_REPEATS };
    for _ in 0..repeats {
        let is_end = ports.write(port, &vec![value; width]);
        assert_eq!(is_end, width == 1 && ends(port, value));
        if width == 1 {
            model.write(port, value);
        }
    }
    Some(())
}

/// Returns whether a write ends the machine (ACPI 6.5 §4.8.3.7: sleep state 5; our reset register;
/// the reset of a PC's keyboard controller).
const fn ends(port: u16, value: u8) -> bool {
    match port {
        0x600 => value & 0x3c == 0x34,
        0x602 => value == 1,
        0x64 => value == 0xfe,
        _ => false,
    }
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    // What a driver does at its start, a line of text, and the loopback of a self-test.
    let writes = [
        [0x20, 3, 0, 0x80],
        [0x20, 0, 0, 1],
        [0x20, 1, 0, 0],
        [0x20, 3, 0, 3],
        [0x20, 1, 0, 0x0f],
        [0x20, 0, 0, b'x'],
        [0x30, 0, 0, b'\n'],
        [0x20, 4, 0, 0x10],
        [0x20, 0, 0, b'y'],
    ];
    let reads = [
        [0, 5, 0],
        [0, 2, 0],
        [0, 0, 0],
        [0x09, 0, 0],
        [0x80, 0x60, 0],
    ];
    let ends = [[0x60, 0, 0, 0x34], [0x60, 2, 0, 1], [0xa0, 0x64, 0, 0xfe]];
    let flood = [0x30, 0, 0, b'.'].repeat(8);
    let all = [writes.concat(), reads.concat(), ends.concat(), flood].concat();
    vec![[&[0][..], &all].concat(), [&[1][..], &all].concat()]
}
