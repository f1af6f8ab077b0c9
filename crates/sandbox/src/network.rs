//! The addresses on the link between a guest and its gateway.
//!
//! Every sandbox has a link of its own, with nobody on it but these two, so all sandboxes have
//! the same addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use smolvm_protocol::message::{GuestNetwork, InterfaceAddress};

use crate::engine::NetworkDevice;

/// Hardware address of the guest. Its first byte says that nobody administers it but us (IEEE
/// 802, "locally administered"); the rest spells `smolv`.
pub const GUEST_MAC: [u8; 6] = [0x02, b's', b'm', b'o', b'l', b'v'];

/// The guest's IPv4 address, in a range that is private (RFC 1918) and rarely a home's or an
/// office's.
pub const GUEST_IPV4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// The gateway's IPv4 address. It is the guest's name server too.
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

/// Leading bits that both IPv4 addresses have in common.
pub const IPV4_PREFIX_LENGTH: u8 = 24;

/// The guest's IPv6 address. `fd` and forty bits of its maker's choice begin an address that is
/// unique to a site (RFC 4193 §3.1); they spell `smolv`.
pub const GUEST_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6d6f, 0x6c76, 0, 0, 0, 0, 2);

/// The gateway's IPv6 address.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6d6f, 0x6c76, 0, 0, 0, 0, 1);

/// Leading bits that both IPv6 addresses have in common.
pub const IPV6_PREFIX_LENGTH: u8 = 64;

/// Largest packet on the link, in bytes. Each one costs the same work in the VMM and the gateway,
/// however long it is, so the largest multiple of 16 is taken that fits an IPv4 packet's length
/// (RFC 791 §3.1). With its Ethernet header it is below what QEMU takes in one piece (69,632
/// bytes; QEMU 7.2, include/net/net.h, `NET_BUFSIZE`).
pub const MTU: u16 = 65_520;

/// Returns the network device of a guest with a network.
#[must_use]
pub const fn device() -> NetworkDevice {
    NetworkDevice {
        mac: GUEST_MAC,
        mtu: MTU,
    }
}

/// Returns what the guest is told about the link that `device` is on.
#[must_use]
pub fn guest_side(device: NetworkDevice) -> GuestNetwork {
    GuestNetwork {
        mac: device.mac,
        mtu: device.mtu,
        ipv4: InterfaceAddress {
            address: GUEST_IPV4,
            prefix_length: IPV4_PREFIX_LENGTH,
            gateway: GATEWAY_IPV4,
        },
        ipv6: Some(InterfaceAddress {
            address: GUEST_IPV6,
            prefix_length: IPV6_PREFIX_LENGTH,
            gateway: GATEWAY_IPV6,
        }),
        dns: vec![GATEWAY_IPV4.into()],
        hosts: Vec::new(),
    }
}
