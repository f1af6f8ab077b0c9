//! The kernel's network configuration, through rtnetlink(7). The one place that speaks netlink.
//!
//! The kernel carries a request out, and has its answer ready, before the call that sends it
//! returns, so nothing here waits.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, Parseable,
};
use netlink_packet_route::AddressFamily as Family;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// Room for the answers that come in one piece: what the kernel uses at most (Linux
/// include/linux/netlink.h, `NLMSG_GOODSIZE`; net/netlink/af_netlink.c, `netlink_dump`).
const ANSWER_BYTES: usize = 32 * 1024;

/// Messages in one piece start at multiples of this (netlink(7), `NLMSG_ALIGN`).
const MESSAGE_ALIGNMENT: usize = 4;

/// An address that an interface has, with the length of its prefix.
pub(crate) type Assigned = (IpAddr, u8);

/// A connection to the kernel's network configuration. Interfaces are named by their index.
#[derive(Debug)]
pub(crate) struct RouteSocket(OwnedFd);

impl RouteSocket {
    pub(crate) fn open() -> Result<Self, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is the first protocol, number zero.
        )?;
        Ok(Self(socket))
    }

    /// Switches an interface on.
    pub(crate) fn switch_on(&self, index: u32) -> Result<(), Errno> {
        let header = LinkHeader {
            index,
            flags: LinkFlags::Up,
            change_mask: LinkFlags::Up,
            ..LinkHeader::default()
        };
        self.change(libc::RTM_NEWLINK, 0, &header)
    }

    /// Returns the addresses of an interface.
    pub(crate) fn addresses(&self, index: u32) -> Result<Vec<Assigned>, Errno> {
        let everything = AddressHeader::default();
        self.send(libc::RTM_GETADDR, NLM_F_DUMP, &everything)?;
        let mut found = Vec::new();
        self.answers(|kind, payload| {
            if kind == libc::RTM_NEWADDR
                && let Ok(message) = AddressMessage::parse(payload)
                && message.header.index == index
            {
                found.extend(assigned(&message));
            }
        })?;
        Ok(found)
    }

    /// Gives an interface an address; one that it has already is fine.
    pub(crate) fn add_address(&self, index: u32, address: Assigned) -> Result<(), Errno> {
        let message = address_message(index, address);
        self.change(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &message)
    }

    /// Takes an address from an interface.
    pub(crate) fn remove_address(&self, index: u32, address: Assigned) -> Result<(), Errno> {
        self.change(libc::RTM_DELADDR, 0, &address_message(index, address))
    }

    /// Sends what has no better way to `gateway` on an interface, and no longer elsewhere.
    pub(crate) fn set_default_route(&self, index: u32, gateway: IpAddr) -> Result<(), Errno> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family_of(gateway),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = vec![
            RouteAttribute::Gateway(gateway.into()),
            RouteAttribute::Oif(index),
        ];
        self.change(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message)
    }

    /// Sends a request that has only success or an error for an answer.
    fn change(&self, kind: u16, flags: u16, request: &impl Emitable) -> Result<(), Errno> {
        self.send(kind, flags | NLM_F_ACK, request)?;
        self.answers(|_, _| ())
    }

    fn send(&self, kind: u16, flags: u16, request: &impl Emitable) -> Result<(), Errno> {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        header.flags = flags | NLM_F_REQUEST;
        let length = header.buffer_len() + request.buffer_len();
        header.length = u32::try_from(length).map_err(|_| Errno::MSGSIZE)?;
        let mut message = vec![0; length];
        header.emit(&mut message);
        request.emit(&mut message[header.buffer_len()..]);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.0, &message, SendFlags::empty(), &kernel).map(|_| ())
    }

    /// Hands every message of the answer, by kind and content, to `take`, up to the last one.
    fn answers(&self, mut take: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let (length, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(|_| Errno::BADMSG)?;
                let bytes = usize::try_from(message.length()).map_err(|_| Errno::BADMSG)?;
                match message.message_type() {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return outcome(message.payload()),
                    kind => take(kind, message.payload()),
                }
                let next = bytes.next_multiple_of(MESSAGE_ALIGNMENT);
                rest = rest.get(next..).unwrap_or_default();
            }
        }
    }
}

/// Reads an acknowledgement, which is an error with the number zero.
fn outcome(payload: &[u8]) -> Result<(), Errno> {
    let error = ErrorBuffer::new_checked(payload).map_err(|_| Errno::BADMSG)?;
    match error.code() {
        None => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code.get().saturating_abs())),
    }
}

fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::Inet,
        IpAddr::V6(_) => Family::Inet6,
    }
}

fn address_message(index: u32, (address, prefix_length): Assigned) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family_of(address),
        prefix_len: prefix_length,
        // Usable at once: nobody else is on the link who could have the address too.
        flags: AddressHeaderFlags::Nodad,
        index,
        ..AddressHeader::default()
    };
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    message
}

/// Returns the address that `message` is about. IPv6 has no local address beside it.
fn assigned(message: &AddressMessage) -> Option<Assigned> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    address.map(|address| (address, message.header.prefix_len))
}
