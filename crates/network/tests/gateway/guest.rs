//! A guest on the other end of a gateway's link: a TCP/IP stack over an in-memory pipe.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

pub(crate) const MTU: u16 = 65_520;
pub(crate) const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
pub(crate) const ADDRESS: &str = "172.16.0.2";
pub(crate) const GATEWAY: &str = "172.16.0.1";

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often is looked for what happens outside the guest.
const TICK: Duration = Duration::from_millis(10);

pub(crate) struct Guest {
    pub(crate) sockets: SocketSet<'static>,
    interface: Interface,
    device: Frames,
    reader: ReadHalf<DuplexStream>,
    writer: WriteHalf<DuplexStream>,
    unread: Vec<u8>,
    started: std::time::Instant,
    next_port: u16,
}

impl Guest {
    pub(crate) fn new(link: DuplexStream) -> Self {
        let mut device = Frames::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for address in ["172.16.0.2/24", "fd73:6d6f:6c76::2/64"] {
                let address: IpCidr = address.parse().expect("address");
                addresses.push(address).expect("room");
            }
        });
        let routes = interface.routes_mut();
        routes
            .add_default_ipv4_route("172.16.0.1".parse().expect("address"))
            .expect("room");
        routes
            .add_default_ipv6_route("fd73:6d6f:6c76::1".parse().expect("address"))
            .expect("room");
        let (reader, writer) = tokio::io::split(link);
        Self {
            sockets: SocketSet::new(Vec::new()),
            interface,
            device,
            reader,
            writer,
            unread: Vec::new(),
            started: std::time::Instant::now(),
            next_port: 40_000,
        }
    }

    /// Begins to connect.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 256 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        let remote = (smoltcp::wire::IpAddress::from(to.ip()), to.port());
        socket
            .connect(self.interface.context(), remote, self.next_port)
            .expect("a new socket connects");
        self.sockets.add(socket)
    }

    /// Listens for one connection.
    pub(crate) fn listen(&mut self, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 256 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.listen(port).expect("a new socket listens");
        self.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Opens a UDP socket.
    pub(crate) fn udp(&mut self) -> SocketHandle {
        self.next_port += 1;
        self.udp_at(self.next_port)
    }

    /// Opens a UDP socket on a port.
    pub(crate) fn udp_at(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 256 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a free port");
        self.sockets.add(socket)
    }

    /// Sends an Ethernet frame as it is.
    pub(crate) async fn send_frame(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).expect("short");
        self.writer
            .write_all(&length.to_be_bytes())
            .await
            .expect("the gateway reads");
        self.writer
            .write_all(frame)
            .await
            .expect("the gateway reads");
    }

    /// Lets the guest live until `done` returns something.
    pub(crate) async fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.poll().await;
            if let Some(result) = done(self) {
                self.poll().await;
                return result;
            }
            let now = self.now();
            let delay = self
                .interface
                .poll_delay(now, &self.sockets)
                .map_or(PATIENCE, |delay| {
                    Duration::from_micros(delay.total_micros())
                });
            tokio::select! {
                read = self.reader.read(&mut buffer) => {
                    let length = read.expect("the link holds");
                    assert!(length > 0, "the gateway closed the link");
                    self.unread.extend(&buffer[..length]);
                    self.take_frames();
                }
                () = tokio::time::sleep(delay.min(TICK)) => {}
                () = tokio::time::sleep_until(deadline) => panic!("not within {PATIENCE:?}"),
            }
        }
    }

    /// Connects, and returns the state once the connection is made or refused.
    pub(crate) async fn connected(&mut self, to: SocketAddr) -> tcp::State {
        let handle = self.connect(to);
        self.until(|guest| {
            let state = guest.tcp(handle).state();
            (state != tcp::State::SynSent).then_some(state)
        })
        .await
    }

    /// Sends a ping and returns the answer's data.
    pub(crate) async fn ping(&mut self, to: IpAddr) -> Vec<u8> {
        let handle = self.send_ping(to);
        self.until(|guest| {
            let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
            let (reply, _) = socket.recv().ok()?;
            Some(reply[ECHO_HEADER_BYTES..].to_vec())
        })
        .await
    }

    /// Sends a ping.
    pub(crate) fn send_ping(&mut self, to: IpAddr) -> SocketHandle {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket
            .bind(icmp::Endpoint::Ident(7))
            .expect("a free identifier");
        let request = echo_request(to);
        socket.send_slice(&request, to.into()).expect("room");
        self.sockets.add(socket)
    }

    async fn poll(&mut self) {
        let now = self.now();
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        while let Some(frame) = self.device.outgoing.pop_front() {
            self.send_frame(&frame).await;
        }
    }

    fn take_frames(&mut self) {
        while let Some(prefix) = self.unread.first_chunk::<4>() {
            let end = 4 + usize::try_from(u32::from_be_bytes(*prefix)).expect("short");
            if self.unread.len() < end {
                return;
            }
            let frame: Vec<u8> = self.unread.drain(..end).skip(4).collect();
            self.device.incoming.push_back(frame);
        }
    }

    fn now(&self) -> Instant {
        let elapsed = self.started.elapsed().as_micros();
        Instant::from_micros(i64::try_from(elapsed).expect("not that long"))
    }
}

#[derive(Default)]
struct Frames {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Device for Frames {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmission<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Transmission<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((Received(frame), Transmission(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Transmission<'_>> {
        Some(Transmission(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(MTU) + 14;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_frame: F) -> R {
        use_frame(&self.0)
    }
}

struct Transmission<'a>(&'a mut Frames);

impl TxToken for Transmission<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let filled = fill(&mut frame);
        self.0.outgoing.push_back(frame);
        filled
    }
}

/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443 §4.1).
const ECHO_HEADER_BYTES: usize = 8;

/// Returns an echo request with the identifier 7 and the data `ping`. The stack computes the
/// checksum when it sends it.
fn echo_request(to: IpAddr) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0, 0, 7, 0, 1];
    message.extend(b"ping");
    message
}

/// Returns the frame of a UDP datagram from the guest to 192.0.2.1, port 9, with no payload.
pub(crate) fn datagram_frame() -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(GATEWAY_MAC);
    frame.extend(MAC);
    frame.extend([0x08, 0x00]);
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([172, 16, 0, 2, 192, 0, 2, 1]);
    frame.extend([0x03, 0xe8, 0, 9, 0, 8, 0, 0]);
    frame
}
