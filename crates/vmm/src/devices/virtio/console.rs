//! The console device (Virtio 1.3 §5.3) with one port, which is a byte stream to the host.
//!
//! ```text
//!   queue 0, 1   the port: to the guest, from the guest
//!   queue 2, 3   control: the device names its port, and each side says whether it is open
//! ```
//!
//! The host's end is open as long as its stream is. What the host sends waits until a program in
//! the guest has opened the port, so that nothing is lost while the guest boots.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::device::{BrokenDriver, Queues, Request, VirtioDevice, is_temporary};
use crate::memory;

/// The device has several ports, and queues to control them (Virtio 1.3 §5.3.3).
const FEATURE_MULTIPORT: u64 = 1 << 1;

/// Its configuration: columns, rows, ports (Virtio 1.3 §5.3.4). One port.
const CONFIGURATION: [u8; 8] = [0, 0, 0, 0, 1, 0, 0, 0];

const QUEUE_SIZES: [u16; 4] = [128, 128, 32, 32];
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const CONTROL_TO_GUEST: usize = 2;
const CONTROL_FROM_GUEST: usize = 3;

/// Bytes of a control message: port, event, value (Virtio 1.3 §5.3.6.2).
const CONTROL_BYTES: usize = 8;

/// Control messages that wait for the driver's buffers; one that makes none has no use for more.
const MAX_WAITING: usize = 16;

/// The one port, as control messages name it.
const PORT: u32 = 0;

// Events of control messages.
const EVENT_DEVICE_READY: u16 = 0;
const EVENT_PORT_ADD: u16 = 1;
const EVENT_PORT_READY: u16 = 3;
const EVENT_PORT_OPEN: u16 = 6;
const EVENT_PORT_NAME: u16 = 7;

/// The console device.
#[derive(Debug)]
pub(crate) struct ConsoleDevice {
    name: &'static str,
    /// Does not block; absent once the host has closed it.
    stream: Option<UnixStream>,
    /// Whether a program in the guest has the port open.
    is_open: bool,
    /// Control messages that had no buffer.
    waiting: VecDeque<Vec<u8>>,
    /// What is left of the guest's request that the stream did not take whole.
    unsent: Option<(Request, u64)>,
}

impl ConsoleDevice {
    /// Makes a device whose port has this name and leads to `stream`.
    pub(crate) fn new(name: &'static str, stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            name,
            stream: Some(stream),
            is_open: false,
            waiting: VecDeque::new(),
            unsent: None,
        })
    }

    fn tell(&mut self, event: u16, value: u16, text: &str) {
        if self.waiting.len() < MAX_WAITING {
            let mut message = vec![0; 4];
            message.extend(event.to_le_bytes());
            message.extend(value.to_le_bytes());
            message.extend(text.as_bytes());
            self.waiting.push_back(message);
        }
    }

    /// Sends the control messages for which there are buffers.
    fn send_control(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        while !self.waiting.is_empty() {
            let Some(request) = queues.take(CONTROL_TO_GUEST)? else {
                if queues.wait_for_kick(CONTROL_TO_GUEST)? {
                    continue;
                }
                break;
            };
            let message = self.waiting.pop_front().expect("there is one");
            let slices = request.writable(queues.memory())?;
            let written = slices.copy_from(&message);
            let written = u32::try_from(written).unwrap_or(0);
            queues.complete(CONTROL_TO_GUEST, &request, written)?;
        }
        queues.notify(CONTROL_TO_GUEST)
    }

    fn hear_control(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        loop {
            while let Some(request) = queues.take(CONTROL_FROM_GUEST)? {
                let mut message = [0; CONTROL_BYTES];
                let slices = request.readable(queues.memory())?;
                if slices.copy_to(&mut message) == CONTROL_BYTES {
                    self.hear(message);
                }
                queues.complete(CONTROL_FROM_GUEST, &request, 0)?;
            }
            queues.notify(CONTROL_FROM_GUEST)?;
            if !queues.wait_for_kick(CONTROL_FROM_GUEST)? {
                break;
            }
        }
        self.send_control(queues)?;
        self.receive(queues)
    }

    fn hear(&mut self, message: [u8; CONTROL_BYTES]) {
        let port = u32::from_le_bytes([message[0], message[1], message[2], message[3]]);
        let event = u16::from_le_bytes([message[4], message[5]]);
        let value = u16::from_le_bytes([message[6], message[7]]);
        match event {
            EVENT_DEVICE_READY if value == 1 => self.tell(EVENT_PORT_ADD, 1, ""),
            // The others are of ports, and there is no other.
            _ if port != PORT => {}
            EVENT_PORT_READY if value == 1 => {
                self.tell(EVENT_PORT_NAME, 1, self.name);
                self.tell(EVENT_PORT_OPEN, self.stream.is_some().into(), "");
            }
            EVENT_PORT_OPEN => self.is_open = value == 1,
            _ => {}
        }
    }

    /// Passes on what the host has sent, as far as the guest has buffers.
    fn receive(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        while self.is_open {
            let Some(stream) = &self.stream else {
                break;
            };
            let Some(request) = queues.take(TO_GUEST)? else {
                if queues.wait_for_kick(TO_GUEST)? {
                    continue;
                }
                break;
            };
            let slices = request.writable(queues.memory())?;
            if slices.len() == 0 {
                // To read nothing is what the host's end looks like.
                queues.complete(TO_GUEST, &request, 0)?;
                continue;
            }
            match memory::receive(stream.as_fd(), slices.as_slices()) {
                Ok(count) if count > 0 => {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    queues.complete(TO_GUEST, &request, count)?;
                }
                outcome => {
                    queues.put_back(TO_GUEST);
                    if !outcome.is_err_and(|error| is_temporary(&error)) {
                        self.close(queues)?;
                    }
                    break;
                }
            }
        }
        queues.notify(TO_GUEST)
    }

    /// Passes on what the guest has sent, as far as the host takes it.
    fn send(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        loop {
            let (request, done) = match self.unsent.take() {
                Some(unsent) => unsent,
                None => match queues.take(FROM_GUEST)? {
                    Some(request) => (request, 0),
                    None if queues.wait_for_kick(FROM_GUEST)? => continue,
                    None => break,
                },
            };
            let mut slices = request.readable(queues.memory())?;
            slices.split_off_front(done);
            let sent = match &self.stream {
                // Nobody listens any more: it is taken and lost, as on a line that is cut.
                None => Ok(slices.len()),
                Some(_) if slices.len() == 0 => Ok(0),
                Some(stream) => {
                    memory::send(stream.as_fd(), slices.as_slices()).map(|count| count as u64)
                }
            };
            match sent {
                Ok(count) if count == slices.len() => queues.complete(FROM_GUEST, &request, 0)?,
                Ok(count) => self.unsent = Some((request, done + count)),
                Err(error) if is_temporary(&error) => {
                    self.unsent = Some((request, done));
                    break;
                }
                Err(_) => {
                    self.unsent = Some((request, done));
                    self.close(queues)?;
                }
            }
        }
        queues.notify(FROM_GUEST)
    }

    /// The host is gone: the guest's programs find their port closed.
    fn close(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        self.stream = None;
        self.tell(EVENT_PORT_OPEN, 0, "");
        self.send_control(queues)
    }
}

impl VirtioDevice for ConsoleDevice {
    fn id(&self) -> u32 {
        3
    }

    fn features(&self) -> u64 {
        FEATURE_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn configuration(&self) -> &[u8] {
        &CONFIGURATION
    }

    fn reset(&mut self) {
        self.is_open = false;
        self.waiting.clear();
        self.unsent = None;
    }

    fn kicked(&mut self, queue: usize, queues: &mut Queues) -> Result<(), BrokenDriver> {
        match queue {
            TO_GUEST => self.receive(queues),
            FROM_GUEST => self.send(queues),
            CONTROL_TO_GUEST => self.send_control(queues),
            _ => self.hear_control(queues),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(UnixStream::as_fd)
    }

    fn source_ready(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        self.send(queues)?;
        self.receive(queues)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::super::driver::{Driver, Part};
    use super::*;

    fn message(event: u16, value: u16) -> Vec<u8> {
        let mut message = vec![0; 4];
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message
    }

    /// Returns a driver whose port a program has open, and the host's end.
    fn open_port() -> (Driver, UnixStream) {
        let (host, stream) = UnixStream::pair().unwrap();
        let mut driver = Driver::new(ConsoleDevice::new("agent", stream).unwrap());
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.extend(driver.submit(CONTROL_TO_GUEST, &[Part::Write(32)]));
        }
        driver.request(
            CONTROL_FROM_GUEST,
            &[Part::Read(&message(EVENT_DEVICE_READY, 1))],
        );
        driver.request(
            CONTROL_FROM_GUEST,
            &[Part::Read(&message(EVENT_PORT_READY, 1))],
        );
        let expected = [
            message(EVENT_PORT_ADD, 1),
            [message(EVENT_PORT_NAME, 1), b"agent".to_vec()].concat(),
            message(EVENT_PORT_OPEN, 1),
        ];
        for (buffer, expected) in heard.iter().zip(expected) {
            let length = driver.done(CONTROL_TO_GUEST).unwrap() as usize;
            assert_eq!(driver.bytes(*buffer)[..length], expected);
        }
        driver.request(
            CONTROL_FROM_GUEST,
            &[Part::Read(&message(EVENT_PORT_OPEN, 1))],
        );
        (driver, host)
    }

    #[test]
    fn bytes_go_both_ways_through_an_open_port() {
        let (mut driver, mut host) = open_port();
        driver.request(FROM_GUEST, &[Part::Read(b"to the "), Part::Read(b"host")]);
        let mut sent = [0; 11];
        host.read_exact(&mut sent).unwrap();
        assert_eq!(&sent, b"to the host");
        host.write_all(b"to the guest").unwrap();
        let buffers = driver.submit(TO_GUEST, &[Part::Write(8), Part::Write(64)]);
        assert_eq!(driver.done(TO_GUEST), Some(12));
        assert_eq!(driver.bytes(buffers[0]), b"to the g");
    }

    #[test]
    fn what_the_host_sends_waits_until_the_port_is_open() {
        let (mut host, stream) = UnixStream::pair().unwrap();
        host.write_all(b"early").unwrap();
        let mut driver = Driver::new(ConsoleDevice::new("agent", stream).unwrap());
        driver.submit(TO_GUEST, &[Part::Write(64)]);
        driver.source_ready();
        assert_eq!(driver.done(TO_GUEST), None);
        driver.request(
            CONTROL_FROM_GUEST,
            &[Part::Read(&message(EVENT_PORT_OPEN, 1))],
        );
        assert_eq!(driver.done(TO_GUEST), Some(5));
    }

    #[test]
    fn guest_waits_for_a_host_that_does_not_read() {
        let (mut driver, mut host) = open_port();
        let piece = vec![3; 200_000];
        driver.request(FROM_GUEST, &[Part::Read(&piece)]);
        driver.submit(FROM_GUEST, &[Part::Read(&piece)]);
        driver.submit(FROM_GUEST, &[Part::Read(&piece)]);
        assert_eq!(driver.done(FROM_GUEST), None);
        let mut all = vec![0; 600_000];
        let mut done = 0;
        while done < all.len() {
            done += host.read(&mut all[done..]).unwrap();
            driver.source_ready();
        }
        assert!(driver.done(FROM_GUEST).is_some() && driver.done(FROM_GUEST).is_some());
        assert!(all.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn end_of_the_host_closes_the_port() {
        let (mut driver, host) = open_port();
        drop(host);
        let told = driver.submit(CONTROL_TO_GUEST, &[Part::Write(32)]);
        driver.submit(TO_GUEST, &[Part::Write(64)]);
        driver.source_ready();
        assert_eq!(driver.done(CONTROL_TO_GUEST), Some(8));
        assert_eq!(driver.bytes(told[0])[..8], message(EVENT_PORT_OPEN, 0));
        // What the guest still sends is taken and lost.
        driver.request(FROM_GUEST, &[Part::Read(b"late")]);
    }
}
