//! The gateway as a host on the guest's link: answers ARP, neighbour discovery and pings to its
//! own addresses.

use std::collections::VecDeque;

use bytes::Bytes;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::outgoing::Link;
use crate::frame::{ETHERNET_BYTES, PREFIX_BYTES};

/// Answers to one frame, at most; there is one as a rule.
const MAX_ANSWERS: usize = 4;

/// The stack that has the gateway's addresses.
pub(crate) struct HostLink {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    started: std::time::Instant,
}

impl HostLink {
    pub(crate) fn new(link: Link, mtu: usize, addresses: impl Iterator<Item = IpCidr>) -> Self {
        let mut wire = Wire {
            mtu: mtu + ETHERNET_BYTES,
            incoming: None,
            answers: VecDeque::new(),
        };
        let config = Config::new(HardwareAddress::Ethernet(link.gateway));
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|own| {
            for address in addresses {
                // There are fewer than the list has room for, which Gateway's tests see.
                let _full = own.push(address);
            }
        });
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            started: std::time::Instant::now(),
        }
    }

    /// Returns whether `address` is the gateway's own.
    pub(crate) fn has(&self, address: std::net::IpAddr) -> bool {
        self.interface.has_ip_addr(IpAddress::from(address))
    }

    /// Handles a frame of the guest's. Returns the answers, as they go on the wire.
    pub(crate) fn answer(&mut self, frame: Bytes) -> impl Iterator<Item = Vec<u8>> + '_ {
        let elapsed = self.started.elapsed().as_millis();
        let now = Instant::from_millis(i64::try_from(elapsed).unwrap_or(i64::MAX));
        self.wire.incoming = Some(frame);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        self.wire.answers.drain(..)
    }
}

/// A device that carries one frame in and its answers out.
struct Wire {
    mtu: usize,
    incoming: Option<Bytes>,
    answers: VecDeque<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmission<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Transmission<'_>)> {
        let frame = self.incoming.take()?;
        Some((Received(frame), Transmission(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Transmission<'_>> {
        (self.answers.len() < MAX_ANSWERS).then_some(Transmission(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Received(Bytes);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_frame: F) -> R {
        use_frame(&self.0)
    }
}

struct Transmission<'a>(&'a mut Wire);

impl TxToken for Transmission<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; PREFIX_BYTES + length];
        let (prefix, ethernet) = frame.split_at_mut(PREFIX_BYTES);
        prefix.copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        let filled = fill(ethernet);
        self.0.answers.push_back(frame);
        filled
    }
}
