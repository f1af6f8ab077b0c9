//! The network device (Virtio 1.3 §5.1). Its link is a stream of the host: Ethernet frames, each
//! after its length as four bytes, most significant first.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use smolvm_protocol::vmm::NetworkInterface;

use super::device::{BrokenDriver, Queues, Request, VirtioDevice, broken, is_temporary};
use super::traffic::TrafficCount;

// Features (Virtio 1.3 §5.1.3).
const FEATURE_MTU: u64 = 1 << 3;
const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_MERGEABLE: u64 = 1 << 15;

const QUEUE_SIZES: [u16; 2] = [256, 256];
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;

/// Bytes before each frame in a buffer (Virtio 1.3 §5.1.6, `virtio_net_hdr`). All zeros: nobody
/// leaves a checksum or a segmentation to the other.
const HEADER_BYTES: usize = 12;

/// Where in it the number of buffers of a frame is.
const BUFFERS_OFFSET: usize = 10;

/// Bytes before each frame on the link.
const LENGTH_BYTES: usize = 4;

/// Largest frame: the largest packet of IPv4 with its Ethernet header.
const MAX_FRAME_BYTES: usize = 65_535 + 14;

/// Room for what has come from the link: some frames, and the largest in any case.
const LINK_BYTES: usize = 256 * 1024;
const _: () = assert!(LINK_BYTES >= 2 * (LENGTH_BYTES + MAX_FRAME_BYTES));

/// The network device.
#[derive(Debug)]
pub(crate) struct NetworkDevice {
    /// Does not block; absent once the host has closed it or broken its rules.
    link: Option<UnixStream>,
    configuration: [u8; 12],
    arrived: Arrived,
    /// What the link has not taken yet.
    unsent: Vec<u8>,
    /// What of `unsent` it has taken.
    sent: usize,
    traffic: Arc<TrafficCount>,
}

/// What has come from the link: complete frames and the beginning of one.
#[derive(Debug)]
struct Arrived {
    /// [`LINK_BYTES`] of them. What was never written takes no memory.
    bytes: Vec<u8>,
    /// What of it has been passed on.
    start: usize,
    /// How far it is filled.
    end: usize,
}

impl Arrived {
    fn new() -> Self {
        Self {
            bytes: vec![0; LINK_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// Returns what has not been passed on.
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Returns where more can be put: with less than a complete frame there, room for all of it.
    fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }
}

/// Whether the guest has buffers enough for a frame.
enum Room {
    Enough,
    /// It has only so many, which are too few.
    Short(usize),
}

impl NetworkDevice {
    /// Makes a device on `link`.
    pub(crate) fn new(interface: NetworkInterface, link: UnixStream) -> io::Result<Self> {
        link.set_nonblocking(true)?;
        // Address, status, queue pairs, MTU (Virtio 1.3 §5.1.4).
        let mut configuration = [0; 12];
        configuration[..6].copy_from_slice(&interface.mac);
        configuration[10..].copy_from_slice(&interface.mtu.to_le_bytes());
        Ok(Self {
            link: Some(link),
            configuration,
            arrived: Arrived::new(),
            unsent: Vec::new(),
            sent: 0,
            traffic: Arc::default(),
        })
    }

    /// Returns where the next complete frame is that has come from the link.
    fn next_frame(&mut self) -> Option<std::ops::Range<usize>> {
        let rest = self.arrived.rest();
        let length = rest.first_chunk::<LENGTH_BYTES>()?;
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME_BYTES {
            // The host's side is ours: it does not do that.
            self.link = None;
            return None;
        }
        let start = self.arrived.start + LENGTH_BYTES;
        (rest.len() >= LENGTH_BYTES + length).then_some(start..start + length)
    }

    /// Reads from the link. Returns whether something came.
    fn read_link(&mut self) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let (count, is_over) = match link.read(self.arrived.room()) {
            Ok(count) => (count, count == 0),
            Err(error) => (0, !is_temporary(&error)),
        };
        self.arrived.end += count;
        if is_over {
            self.link = None;
        }
        count > 0
    }

    /// Passes on what has come from the link, as far as the guest has buffers.
    fn receive(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        let mut short_of = None;
        loop {
            let Some(frame) = self.next_frame() else {
                if self.read_link() {
                    continue;
                }
                break;
            };
            match self.pass_on(frame.clone(), queues)? {
                Room::Enough => {
                    self.arrived.start = frame.end;
                    self.traffic.count_to_guest(frame.len() as u64);
                }
                // Those that came in between may be enough; the same again are not.
                Room::Short(buffers) => {
                    if short_of == Some(buffers) || !queues.wait_for_kick(TO_GUEST)? {
                        break;
                    }
                    short_of = Some(buffers);
                }
            }
        }
        queues.notify(TO_GUEST)
    }

    /// Puts a frame into the guest's buffers, if there are enough.
    fn pass_on(
        &self,
        frame: std::ops::Range<usize>,
        queues: &mut Queues,
    ) -> Result<Room, BrokenDriver> {
        let mut header = [0; HEADER_BYTES];
        let wanted = HEADER_BYTES + frame.len();
        let mut taken: Vec<(Request, u64)> = Vec::new();
        let mut room = 0;
        while room < wanted as u64 {
            // A driver that adds buffers while they are counted comes to an end, too.
            if taken.len() == usize::from(QUEUE_SIZES[TO_GUEST]) {
                return Err(broken("a frame has tiny buffers"));
            }
            let Some(request) = queues.take(TO_GUEST)? else {
                for _ in &taken {
                    queues.put_back(TO_GUEST);
                }
                return Ok(Room::Short(taken.len()));
            };
            let length = request.writable(queues.memory())?.len();
            if length == 0 {
                return Err(broken("a buffer for a frame is empty"));
            }
            room += length;
            taken.push((request, length));
        }
        let count = u16::try_from(taken.len()).expect("no more than the queue has");
        header[BUFFERS_OFFSET..].copy_from_slice(&count.to_le_bytes());
        let mut rest = &self.arrived.bytes[frame];
        for (index, (request, length)) in taken.iter().enumerate() {
            let mut slices = request.writable(queues.memory())?;
            let mut written = 0;
            if index == 0 {
                if *length < HEADER_BYTES as u64 {
                    return Err(broken("a buffer for a frame is shorter than its header"));
                }
                let front = slices.split_off_front(HEADER_BYTES as u64);
                written += front.copy_from(&header);
            }
            let room = usize::try_from(slices.len()).unwrap_or(usize::MAX);
            let (piece, left) = rest.split_at(room.min(rest.len()));
            written += slices.copy_from(piece);
            rest = left;
            let written = u32::try_from(written).unwrap_or(u32::MAX);
            queues.complete(TO_GUEST, request, written)?;
        }
        Ok(Room::Enough)
    }

    /// Passes on what the guest has sent, as far as the link takes it.
    fn send(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        while self.write_link() {
            let Some(request) = queues.take(FROM_GUEST)? else {
                if queues.wait_for_kick(FROM_GUEST)? {
                    continue;
                }
                break;
            };
            let mut slices = request.readable(queues.memory())?;
            slices.split_off_front(HEADER_BYTES as u64);
            let length = usize::try_from(slices.len()).unwrap_or(usize::MAX);
            if (1..=MAX_FRAME_BYTES).contains(&length) && self.link.is_some() {
                let prefix = u32::try_from(length)
                    .expect("it is a frame's")
                    .to_be_bytes();
                self.unsent.extend(prefix);
                let start = self.unsent.len();
                self.unsent.resize(start + length, 0);
                slices.copy_to(&mut self.unsent[start..]);
                self.traffic.count_from_guest(length as u64);
            }
            queues.complete(FROM_GUEST, &request, 0)?;
        }
        queues.notify(FROM_GUEST)
    }

    /// Sends what waits. Returns whether nothing waits any more.
    fn write_link(&mut self) -> bool {
        while self.sent < self.unsent.len() {
            let Some(link) = &mut self.link else {
                break;
            };
            match link.write(&self.unsent[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if is_temporary(&error) => return false,
                Err(_) => self.link = None,
            }
        }
        self.unsent.clear();
        self.sent = 0;
        true
    }
}

impl VirtioDevice for NetworkDevice {
    fn id(&self) -> u32 {
        1
    }

    fn traffic(&self) -> Option<Arc<TrafficCount>> {
        Some(self.traffic.clone())
    }

    fn features(&self) -> u64 {
        FEATURE_MAC | FEATURE_MTU | FEATURE_MERGEABLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn kicked(&mut self, queue: usize, queues: &mut Queues) -> Result<(), BrokenDriver> {
        match queue {
            TO_GUEST => self.receive(queues),
            _ => self.send(queues),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(UnixStream::as_fd)
    }

    fn source_ready(&mut self, queues: &mut Queues) -> Result<(), BrokenDriver> {
        self.send(queues)?;
        self.receive(queues)
    }
}

#[cfg(test)]
mod tests {
    use smolvm_protocol::vmm::{Flow, Traffic};

    use super::super::driver::{Driver, Part};
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn network() -> (Driver, UnixStream) {
        let (ours, link) = UnixStream::pair().unwrap();
        let interface = NetworkInterface {
            mac: MAC,
            mtu: 9000,
        };
        (
            Driver::new(NetworkDevice::new(interface, link).unwrap()),
            ours,
        )
    }

    fn traffic(driver: &Driver) -> Traffic {
        let mut traffic = Traffic::default();
        let (_, counted) = driver.slot.traffic().unwrap();
        counted.add_to(&mut traffic);
        traffic
    }

    fn framed(frame: &[u8]) -> Vec<u8> {
        let length = u32::try_from(frame.len()).unwrap();
        [&length.to_be_bytes()[..], frame].concat()
    }

    #[test]
    fn frame_of_the_guest_goes_out_without_its_header() {
        let (mut driver, mut host) = network();
        driver.request(
            FROM_GUEST,
            &[Part::Read(&[0; HEADER_BYTES]), Part::Read(b"a frame")],
        );
        let mut sent = [0; 11];
        host.read_exact(&mut sent).unwrap();
        assert_eq!(sent[..], framed(b"a frame"));
        assert_eq!(traffic(&driver).from_guest, Flow { count: 1, bytes: 7 });
    }

    #[test]
    fn frame_of_the_host_waits_for_buffers_and_takes_as_many_as_it_needs() {
        let (mut driver, mut host) = network();
        host.write_all(&framed(&[9; 30])).unwrap();
        driver.source_ready();
        let first = driver.submit(TO_GUEST, &[Part::Write(20)]);
        assert_eq!(driver.done(TO_GUEST), None);
        let second = driver.submit(TO_GUEST, &[Part::Write(64)]);
        assert_eq!(driver.done(TO_GUEST), Some(20));
        assert_eq!(driver.done(TO_GUEST), Some(22));
        let mut expected = [0; HEADER_BYTES].to_vec();
        expected[BUFFERS_OFFSET] = 2;
        expected.extend([9; 8]);
        assert_eq!(driver.bytes(first[0]), expected);
        assert_eq!(driver.bytes(second[0])[..22], [9; 22]);
        let counted = traffic(&driver);
        assert_eq!(
            counted.to_guest,
            Flow {
                count: 1,
                bytes: 30
            }
        );
        assert_eq!(counted.from_guest, Flow::default());
    }

    #[test]
    fn frames_that_come_in_pieces_are_put_together() {
        let (mut driver, mut host) = network();
        for byte in framed(b"slowly") {
            host.write_all(&[byte]).unwrap();
            driver.source_ready();
        }
        let buffer = driver.submit(TO_GUEST, &[Part::Write(64)]);
        assert_eq!(driver.done(TO_GUEST), Some(18));
        assert_eq!(&driver.bytes(buffer[0])[HEADER_BYTES..18], b"slowly");
    }

    #[test]
    fn frames_that_wait_for_buffers_come_whole_and_in_order() {
        let (mut driver, mut host) = network();
        // Together more than there is room for at once.
        for round in 0..3 {
            let frames = (0..20).map(|number| [round * 20 + number; 9000]);
            for frame in frames.clone() {
                host.write_all(&framed(&frame)).unwrap();
                driver.source_ready();
            }
            for frame in frames {
                let buffer = driver.submit(TO_GUEST, &[Part::Write(9100)]);
                assert_eq!(driver.done(TO_GUEST), Some(9012));
                assert_eq!(driver.bytes(buffer[0])[HEADER_BYTES..9012], frame);
            }
        }
    }

    #[test]
    fn link_that_is_gone_loses_frames_and_keeps_the_device() {
        let (mut driver, host) = network();
        drop(host);
        driver.source_ready();
        driver.request(
            FROM_GUEST,
            &[Part::Read(&[0; HEADER_BYTES]), Part::Read(b"a frame")],
        );
    }
}
