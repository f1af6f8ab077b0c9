//! The kernel's network configuration, through rtnetlink(7).

use std::net::IpAddr;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Parseable,
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

use super::Socket;

/// An address that an interface has, with the length of its prefix.
pub(crate) type Assigned = (IpAddr, u8);

/// A connection to the kernel's network configuration. Interfaces are named by their index.
#[derive(Debug)]
pub(crate) struct RouteSocket(Socket);

impl RouteSocket {
    pub(crate) fn open() -> Result<Self, Errno> {
        Socket::open(None).map(Self)
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
        self.0.send(libc::RTM_GETADDR, NLM_F_DUMP, &everything)?;
        let mut found = Vec::new();
        self.0.answers(|kind, payload| {
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
        self.0.send(kind, flags | NLM_F_ACK, request)?;
        self.0.answers(|_, _| ())
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
