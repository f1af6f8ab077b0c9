//! The gateway's end of one TCP connection of the guest's: a TCP/IP stack with a single socket.
//!
//! Each connection has a stack of its own, so that a packet finds its connection by a hash rather
//! than by asking all sockets in turn, and so that a connection's state has one owner: its task.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use super::buffers::BufferSize;
use super::outgoing::{Link, frame_of};

/// Packets that wait in each direction, at most.
const QUEUED_PACKETS: usize = 16;

/// The stack of one connection.
pub(crate) struct Terminal {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    queue: PacketQueue,
    started: std::time::Instant,
    _buffers: BufferSize,
}

impl Terminal {
    /// Returns a stack that stands for `address`, where it awaits the guest's first packet.
    pub(crate) fn listening(
        address: SocketAddr,
        link: Link,
        mtu: usize,
        seed: u64,
        buffers: BufferSize,
    ) -> Self {
        let mut terminal = Self::new(address.ip(), link, mtu, seed, buffers);
        let endpoint = IpListenEndpoint {
            addr: Some(IpAddress::from(address.ip())),
            port: address.port(),
        };
        terminal
            .socket()
            .listen(endpoint)
            .expect("the socket is new, and port 0 was refused with the packet");
        terminal
    }

    /// Returns a stack that stands for `address`, from which it connects to the guest.
    pub(crate) fn connecting(
        address: SocketAddr,
        guest: SocketAddr,
        link: Link,
        mtu: usize,
        seed: u64,
        buffers: BufferSize,
    ) -> Self {
        let mut terminal = Self::new(address.ip(), link, mtu, seed, buffers);
        let Self {
            interface,
            sockets,
            handle,
            ..
        } = &mut terminal;
        let remote = (IpAddress::from(guest.ip()), guest.port());
        let local = (IpAddress::from(address.ip()), address.port());
        sockets
            .get_mut::<tcp::Socket<'_>>(*handle)
            .connect(interface.context(), remote, local)
            .expect("the socket is new, and neither port is 0");
        terminal
    }

    fn new(own: IpAddr, link: Link, mtu: usize, seed: u64, buffers: BufferSize) -> Self {
        let mut queue = PacketQueue {
            link,
            mtu,
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut queue, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let prefix = if own.is_ipv4() { 32 } else { 128 };
            // The list is empty and has room for at least one (smoltcp, IFACE_MAX_ADDR_COUNT).
            let _full = addresses.push(IpCidr::new(own.into(), prefix));
        });
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; buffers.bytes]),
            tcp::SocketBuffer::new(vec![0; buffers.bytes]),
        );
        // What the host has sent goes on at once: it was Nagle's turn there already.
        socket.set_nagle_enabled(false);
        // The link is a pipe inside this machine; an acknowledgement costs less than a timer.
        socket.set_ack_delay(None);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            queue,
            started: std::time::Instant::now(),
            _buffers: buffers,
        }
    }

    /// Returns whether another packet of the guest's can be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.incoming.len() < QUEUED_PACKETS
    }

    /// Takes a packet of the guest's; [`Terminal::advance`] handles it.
    pub(crate) fn take(&mut self, packet: Bytes) {
        self.queue.incoming.push_back(packet);
    }

    /// Lets the stack do what is to be done now.
    pub(crate) fn advance(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.queue, &mut self.sockets);
    }

    /// Returns in how long the stack has something to do if nothing happens.
    pub(crate) fn delay(&mut self) -> Option<Duration> {
        let now = self.now();
        let delay = self.interface.poll_delay(now, &self.sockets)?;
        Some(Duration::from_micros(delay.total_micros()))
    }

    /// Hands out the next frame to the guest.
    pub(crate) fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.queue.outgoing.pop_front()
    }

    /// Returns whether frames to the guest wait.
    pub(crate) fn has_frames(&self) -> bool {
        !self.queue.outgoing.is_empty()
    }

    pub(crate) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

/// The stack's network device.
struct PacketQueue {
    link: Link,
    mtu: usize,
    incoming: VecDeque<Bytes>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Device for PacketQueue {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmission<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Transmission<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Received(packet), Transmission(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Transmission<'_>> {
        (self.outgoing.len() < QUEUED_PACKETS).then_some(Transmission(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Received(Bytes);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_packet: F) -> R {
        use_packet(&self.0)
    }
}

struct Transmission<'a>(&'a mut PacketQueue);

impl TxToken for Transmission<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut filled = None;
        let frame = frame_of(self.0.link, length, |packet| filled = Some(fill(packet)));
        self.0.outgoing.push_back(frame);
        filled.expect("frame_of calls what fills the frame")
    }
}
