//! Where a frame of the guest's goes: to the gateway itself, to a flow under way, or to a new one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv6Address, Ipv6Packet};
use tokio::io::AsyncRead;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::context::{Context, DNS_PORT};
use super::flow::{self, Far, Flow, FlowKey};
use super::from_peer::{self, Incoming};
use super::host_link::HostLink;
use super::packet::{Content, DropReason, Packet};
use super::{dns_service, echo};
use crate::frame::{ETHERNET_BYTES, FrameReader};
use crate::peer::Peer;
use crate::{AwaitedCause, Event, Protocol};

/// Packets that wait for one flow, at most. More are lost, as on any link; TCP sends them again.
const FLOW_QUEUE: usize = 64;

/// DNS queries in datagrams that are under way at once, at most.
const MAX_QUERIES: usize = 128;

/// Connections of all peers at once, at most: part of what a guest may have altogether, so that it
/// is not cut off by them.
const MAX_INCOMING: usize = 256;

/// Where the ports begin from which peers connect (RFC 6335 §6, "Dynamic Ports").
const FIRST_PORT: u16 = 49_152;

/// How often the log tells what was dropped.
const DROPS_PERIOD: Duration = Duration::from_secs(1);

/// The one task that reads the guest's frames.
pub(crate) struct Router {
    context: Arc<Context>,
    host_link: HostLink,
    flows: HashMap<FlowKey, FlowEntry>,
    tasks: JoinSet<(FlowKey, u64)>,
    queries: JoinSet<()>,
    drops: HashMap<DropReason, u64>,
    /// What peers ask for.
    incoming: mpsc::Receiver<Incoming>,
    /// Room for more of their connections.
    incoming_room: Arc<Semaphore>,
    /// Where the next of them comes from, if nobody does already.
    next_port: u16,
}

struct FlowEntry {
    number: u64,
    packets: mpsc::Sender<Packet>,
}

impl Router {
    pub(crate) fn new(
        context: Arc<Context>,
        host_link: HostLink,
        incoming: mpsc::Receiver<Incoming>,
    ) -> Self {
        Self {
            context,
            host_link,
            flows: HashMap::new(),
            tasks: JoinSet::new(),
            queries: JoinSet::new(),
            drops: HashMap::new(),
            incoming,
            incoming_room: Arc::new(Semaphore::new(MAX_INCOMING)),
            next_port: FIRST_PORT,
        }
    }

    /// Routes frames until the stream ends.
    ///
    /// # Errors
    ///
    /// When the stream fails or carries no frames.
    pub(crate) async fn run(
        mut self,
        mut frames: FrameReader<impl AsyncRead + Unpin>,
    ) -> io::Result<()> {
        let mut drops = drops_interval();
        loop {
            tokio::select! {
                frame = frames.next() => match frame? {
                    Some(frame) => {
                        self.context.upload.take(frame.len()).await;
                        self.route(frame);
                    }
                    None => break,
                },
                Some(incoming) = self.incoming.recv() => {
                    if let Err(reason) = self.admit(incoming) {
                        *self.drops.entry(reason).or_default() += 1;
                    }
                }
                Some(ended) = self.tasks.join_next() => self.forget(ended.ok()),
                Some(_) = self.queries.join_next() => {}
                // Only then: an idle guest should not wake its host every second.
                _ = drops.tick(), if !self.drops.is_empty() => self.tell_drops(),
            }
        }
        self.tell_drops();
        Ok(())
    }

    fn route(&mut self, frame: Bytes) {
        if let Err(reason) = self.try_route(frame) {
            *self.drops.entry(reason).or_default() += 1;
        }
    }

    fn try_route(&mut self, frame: Bytes) -> Result<(), DropReason> {
        let header = EthernetFrame::new_checked(&frame[..]).map_err(|_| "malformed frame")?;
        let link = self.context.outgoing.link();
        if header.src_addr() != link.guest {
            return Err("spoofed hardware address");
        }
        let is_ours = header.dst_addr() == link.gateway || !header.dst_addr().is_unicast();
        if !is_ours {
            return Err("hardware address of nobody");
        }
        match header.ethertype() {
            EthernetProtocol::Arp => {
                self.answer(frame);
                Ok(())
            }
            EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 => self.route_packet(frame),
            _ => Err("protocol other than IP and ARP"),
        }
    }

    fn route_packet(&mut self, frame: Bytes) -> Result<(), DropReason> {
        if is_group_report(&frame[ETHERNET_BYTES..]) {
            return Ok(());
        }
        let packet = Packet::parse(frame.slice(ETHERNET_BYTES..))?;
        let (source, destination) = (packet.source.ip(), packet.destination.ip());
        let is_discovery = matches!(packet.content, Content::Icmp(_))
            && destination.is_ipv6()
            && (destination.is_multicast() || is_link_local(source));
        if is_discovery || self.is_ping_to_gateway(&packet) {
            self.answer(frame);
            return Ok(());
        }
        if !self.context.link.guest.contains(&source) {
            return Err("spoofed source address");
        }
        if destination.is_multicast() || is_broadcast(destination) {
            return Err("multicast or broadcast");
        }
        if let Content::Udp(query) = &packet.content
            && packet.destination.port() == DNS_PORT
            && self.context.is_gateway(destination)
        {
            let query = query.clone();
            return self.ask(packet, query);
        }
        let key = key_of(&packet)?;
        let is_opening = !matches!(packet.content, Content::Tcp { is_opening: false });
        self.deliver(key, packet, is_opening)
    }

    /// Has the resolver answer a query.
    fn ask(&mut self, packet: Packet, query: Bytes) -> Result<(), DropReason> {
        let has_room = self.queries.len() < MAX_QUERIES;
        if !has_room || !self.context.queries.try_take_one() {
            return Err("too many DNS queries");
        }
        let context = Arc::clone(&self.context);
        self.queries
            .spawn(dns_service::datagram(context, packet, query));
        Ok(())
    }

    fn is_ping_to_gateway(&self, packet: &Packet) -> bool {
        matches!(packet.content, Content::Icmp(_)) && self.host_link.has(packet.destination.ip())
    }

    /// Has the gateway answer a frame that concerns itself.
    fn answer(&mut self, frame: Bytes) {
        let outgoing = &self.context.outgoing;
        self.host_link
            .answer(frame)
            .for_each(|answer| outgoing.offer(answer));
    }

    /// Hands a packet to its flow, which it opens when there is none.
    fn deliver(
        &mut self,
        key: FlowKey,
        packet: Packet,
        is_opening: bool,
    ) -> Result<(), DropReason> {
        let packet = match self.flows.entry(key) {
            Entry::Vacant(_) => packet,
            Entry::Occupied(entry) => match entry.get().packets.try_send(packet) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => return Err("full queue"),
                Err(TrySendError::Closed(packet)) => {
                    entry.remove();
                    packet
                }
            },
        };
        if !is_opening {
            self.reset(&packet);
            return Ok(());
        }
        if self.tasks.len() >= self.context.limits.max_flows {
            self.reset(&packet);
            return Err("too many connections at once");
        }
        self.open(key, packet);
        Ok(())
    }

    fn reset(&self, packet: &Packet) {
        if let Content::Tcp { .. } = packet.content
            && let Some(reset) = self.context.outgoing.reset(packet)
        {
            self.context.outgoing.offer(reset);
        }
    }

    fn open(&mut self, key: FlowKey, packet: Packet) {
        let (packets, queue) = mpsc::channel(FLOW_QUEUE);
        // The queue is new, and has room.
        let _has_room = packets.try_send(packet);
        let number = self.context.next_number();
        let peer = self.context.peer_at(key.destination.ip());
        let flow = Flow {
            number,
            key,
            names: match &peer {
                Some(peer) => peer.name.dns_names(),
                None => self.context.names_of(key.destination.ip()),
            },
            far: peer.map_or(Far::Host, Far::To),
            cause: self
                .context
                .causes
                .ask(key.protocol, key.source, key.destination),
            context: Arc::clone(&self.context),
        };
        self.flows.insert(key, FlowEntry { number, packets });
        self.tasks.spawn(async move {
            flow::serve(flow, queue).await;
            (key, number)
        });
    }

    /// Opens a flow that a peer asks for. One that is dropped instead is refused by that.
    fn admit(&mut self, incoming: Incoming) -> Result<(), DropReason> {
        let peer = Peer {
            name: incoming.peer,
            network: incoming.network,
        };
        let peers = self
            .context
            .peers
            .as_ref()
            .ok_or("peer without a network")?;
        let address = peers.address_of(&peer).ok_or("too many peers")?;
        let guest = self.context.link.guest.iter().find(|guest| guest.is_ipv4());
        let source = SocketAddr::new(*guest.ok_or("guest without IPv4")?, incoming.port);
        let room = Arc::clone(&self.incoming_room).try_acquire_owned();
        let room = room.map_err(|_| "too many connections of peers at once")?;
        if self.tasks.len() >= self.context.limits.max_flows {
            return Err("too many connections at once");
        }
        let key = self.free_key(incoming.protocol, source, address.into())?;
        let (packets, queue) = mpsc::channel(FLOW_QUEUE);
        let number = self.context.next_number();
        let flow = Flow {
            number,
            key,
            names: peer.name.dns_names(),
            far: Far::From(peer),
            cause: AwaitedCause::unknown(),
            context: Arc::clone(&self.context),
        };
        self.flows.insert(key, FlowEntry { number, packets });
        self.tasks.spawn(async move {
            let _room = room;
            from_peer::serve(flow, incoming.stream, queue).await;
            (key, number)
        });
        Ok(())
    }

    /// Returns a flow's key with a port of the peer's on which it has none with this end.
    fn free_key(
        &mut self,
        protocol: Protocol,
        source: SocketAddr,
        peer: IpAddr,
    ) -> Result<FlowKey, DropReason> {
        // There are more ports than a guest has flows.
        for _ in FIRST_PORT..=u16::MAX {
            let key = FlowKey {
                protocol,
                source,
                destination: SocketAddr::new(peer, self.next_port),
            };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.flows.contains_key(&key) {
                return Ok(key);
            }
        }
        Err("no port left for a peer")
    }

    /// Forgets a flow that has ended. One that panicked stays until its next packet.
    fn forget(&mut self, ended: Option<(FlowKey, u64)>) {
        if let Some((key, number)) = ended
            && let Entry::Occupied(entry) = self.flows.entry(key)
            && entry.get().number == number
        {
            entry.remove();
        }
    }

    fn tell_drops(&mut self) {
        for (reason, frames) in self.drops.drain() {
            self.context.log.record(Event::Dropped {
                reason: reason.to_owned(),
                frames,
            });
        }
    }
}

fn drops_interval() -> Interval {
    let mut interval = interval(DROPS_PERIOD);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn key_of(packet: &Packet) -> Result<FlowKey, DropReason> {
    let (protocol, source) = match &packet.content {
        Content::Tcp { .. } => (Protocol::Tcp, packet.source),
        Content::Udp(_) => (Protocol::Udp, packet.source),
        Content::Icmp(message) => {
            let identifier = echo::identifier(message, packet.source.is_ipv4())
                .ok_or("ICMP message other than a ping")?;
            let mut source = packet.source;
            source.set_port(identifier);
            (Protocol::Icmp, source)
        }
    };
    Ok(FlowKey {
        protocol,
        source,
        destination: packet.destination,
    })
}

/// Whether a packet tells routers of multicast groups that the guest is in, which every IPv6 guest
/// does when it boots: to ff02::16, behind an extension header (RFC 3810 §5.2.14). There are no
/// groups here.
fn is_group_report(packet: &[u8]) -> bool {
    const ROUTERS: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    Ipv6Packet::new_checked(packet)
        .is_ok_and(|packet| packet.version() == 6 && packet.dst_addr() == ROUTERS)
}

/// Whether `address` is one of its link only (RFC 4291 §2.5.6), or none at all.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
    }
}

fn is_broadcast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_unspecified(),
        IpAddr::V6(address) => address.is_unspecified(),
    }
}
