//! What is denied in every mode unless a rule is about just that.
//!
//! Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890), and the IANA
//! multicast registries. Documentation (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24,
//! 2001:db8::/32) and benchmarking ranges (198.18.0.0/15, where some proxies of developers'
//! machines put all names) are no protections: nothing of the host's is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::addresses::Judged;

/// Why an address is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protection {
    /// The host itself, by its loopback.
    Loopback,
    /// The host itself, by an address of one of its interfaces.
    Own,
    /// A network of the host's owner.
    Private,
    /// The link that the host is on.
    LinkLocal,
    /// A service that gives a cloud machine its credentials.
    Metadata,
    /// Many machines at once.
    Multicast,
    /// All machines of a network.
    Broadcast,
    /// No address; a socket that connects there reaches the host itself.
    Unspecified,
    /// Addresses that nobody has.
    Reserved,
}

impl Protection {
    /// Returns what a [`Verdict`](crate::Verdict) names as its rule.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Loopback => "built-in: loopback of the host",
            Self::Own => "built-in: address of the host",
            Self::Private => "built-in: private address",
            Self::LinkLocal => "built-in: link-local address",
            Self::Metadata => "built-in: cloud metadata",
            Self::Multicast => "built-in: multicast",
            Self::Broadcast => "built-in: broadcast",
            Self::Unspecified => "built-in: unspecified address",
            Self::Reserved => "built-in: reserved address",
        }
    }
}

/// A protection of an address, and the range within which a rule must be to lift it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Protected {
    pub(super) protection: Protection,
    pub(super) range: IpNet,
    pub(super) address: IpAddr,
}

impl Protected {
    /// Tells whether a rule about this network is about this protection of this address.
    pub(super) fn is_lifted_by(&self, network: &IpNet) -> bool {
        self.range.contains(network) && network.contains(&self.address)
    }
}

/// Returns every protection of an address, the most telling first.
pub(super) fn protections(judged: Judged, own: &[IpAddr]) -> impl Iterator<Item = Protected> {
    judged.addresses().flat_map(move |address| {
        let is_own = own.contains(&address);
        let own = is_own.then_some((Protection::Own, IpNet::from(address)));
        let built_in = RANGES
            .iter()
            .copied()
            .filter(move |(_, range)| range.contains(&address));
        own.into_iter()
            .chain(built_in)
            .map(move |(protection, range)| Protected {
                protection,
                range,
                address,
            })
    })
}

/// The ranges; of two that hold an address, the narrower one is first.
const RANGES: &[(Protection, IpNet)] = &[
    // EC2, Azure and Google Compute Engine, and most others.
    (Protection::Metadata, v4([169, 254, 169, 254], 32)),
    // Credentials of ECS tasks and EKS pods.
    (Protection::Metadata, v4([169, 254, 170, 2], 32)),
    (Protection::Metadata, v4([169, 254, 170, 23], 32)),
    // Alibaba Cloud.
    (Protection::Metadata, v4([100, 100, 100, 200], 32)),
    // Oracle Cloud's classic machines.
    (Protection::Metadata, v4([192, 0, 0, 192], 32)),
    // Azure's platform, a public address that only its own machines reach.
    (Protection::Metadata, v4([168, 63, 129, 16], 32)),
    // EC2 and EKS, then Google Compute Engine.
    (
        Protection::Metadata,
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    ),
    (
        Protection::Metadata,
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128),
    ),
    (
        Protection::Metadata,
        v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    ),
    // RFC 1122 §3.2.1.3; RFC 4291 §2.5.3.
    (Protection::Loopback, v4([127, 0, 0, 0], 8)),
    (Protection::Loopback, v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    // "This network" (RFC 791 §3.2), then RFC 4291 §2.5.2.
    (Protection::Unspecified, v4([0, 0, 0, 0], 8)),
    (Protection::Unspecified, v6([0, 0, 0, 0, 0, 0, 0, 0], 128)),
    // RFC 1918 §3.
    (Protection::Private, v4([10, 0, 0, 0], 8)),
    (Protection::Private, v4([172, 16, 0, 0], 12)),
    (Protection::Private, v4([192, 168, 0, 0], 16)),
    // Between a provider and its customers (RFC 6598 §7).
    (Protection::Private, v4([100, 64, 0, 0], 10)),
    // RFC 4193 §3.1; the site-local addresses before them (RFC 3879); local translation (RFC 8215).
    (Protection::Private, v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7)),
    (Protection::Private, v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10)),
    (
        Protection::Private,
        v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    ),
    // RFC 3927 §2.1; RFC 4291 §2.5.6.
    (Protection::LinkLocal, v4([169, 254, 0, 0], 16)),
    (Protection::LinkLocal, v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    // RFC 5771 §3; RFC 4291 §2.7.
    (Protection::Multicast, v4([224, 0, 0, 0], 4)),
    (Protection::Multicast, v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
    // RFC 919 §7.
    (Protection::Broadcast, v4([255, 255, 255, 255], 32)),
    // RFC 6890 §2.2.2; RFC 1112 §4; RFC 6666.
    (Protection::Reserved, v4([192, 0, 0, 0], 24)),
    (Protection::Reserved, v4([240, 0, 0, 0], 4)),
    (Protection::Reserved, v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64)),
];

const fn v4(octets: [u8; 4], length: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(segments: [u16; 8], length: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(a, b, c, d, e, f, g, h),
        length,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(address: &str, own: &[&str]) -> Option<Protection> {
        let own: Vec<IpAddr> = own
            .iter()
            .map(|own| own.parse().expect("an address"))
            .collect();
        let judged = Judged::new(address.parse().expect("an address"));
        protections(judged, &own)
            .next()
            .map(|protected| protected.protection)
    }

    #[test]
    fn protected_addresses_have_their_reason() {
        for (address, expected) in [
            ("127.0.0.1", Protection::Loopback),
            ("127.255.255.255", Protection::Loopback),
            ("::1", Protection::Loopback),
            ("10.1.2.3", Protection::Private),
            ("172.31.255.255", Protection::Private),
            ("192.168.0.1", Protection::Private),
            ("100.64.0.1", Protection::Private),
            ("fd12:3456::1", Protection::Private),
            ("fec0::1", Protection::Private),
            ("64:ff9b:1::a00:1", Protection::Private),
            ("169.254.1.1", Protection::LinkLocal),
            ("fe80::1", Protection::LinkLocal),
            ("169.254.169.254", Protection::Metadata),
            ("fd00:ec2::254", Protection::Metadata),
            ("100.100.100.200", Protection::Metadata),
            ("168.63.129.16", Protection::Metadata),
            ("224.0.0.251", Protection::Multicast),
            ("ff02::fb", Protection::Multicast),
            ("255.255.255.255", Protection::Broadcast),
            ("0.0.0.0", Protection::Unspecified),
            ("0.1.2.3", Protection::Unspecified),
            ("::", Protection::Unspecified),
            ("240.0.0.1", Protection::Reserved),
            ("192.0.0.8", Protection::Reserved),
            ("100::1", Protection::Reserved),
        ] {
            assert_eq!(first(address, &[]), Some(expected), "{address}");
        }
    }

    #[test]
    fn public_and_documentation_addresses_are_not_protected() {
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "198.18.0.1",
            "2001:db8::1",
            "2606:4700::1111",
        ] {
            assert_eq!(first(address, &[]), None, "{address}");
        }
    }

    #[test]
    fn protected_address_inside_another_is_protected() {
        for (address, expected) in [
            ("::ffff:127.0.0.1", Protection::Loopback),
            ("::ffff:a9fe:a9fe", Protection::Metadata),
            ("64:ff9b::10.0.0.1", Protection::Private),
            ("2002:7f00:1::", Protection::Loopback),
            ("2002:c0a8:101::1", Protection::Private),
            // Teredo's client 10.0.0.1, with its bits flipped.
            ("2001:0:0:0:0:0:f5ff:fffe", Protection::Private),
            ("::127.0.0.1", Protection::Loopback),
        ] {
            assert_eq!(first(address, &[]), Some(expected), "{address}");
        }
    }

    #[test]
    fn own_public_address_is_protected() {
        let own = ["203.0.113.7", "2001:db8::7"];
        assert_eq!(first("203.0.113.7", &own), Some(Protection::Own));
        assert_eq!(first("::ffff:203.0.113.7", &own), Some(Protection::Own));
        assert_eq!(first("2001:db8::7", &own), Some(Protection::Own));
        assert_eq!(first("203.0.113.8", &own), None);
    }

    #[test]
    fn narrower_range_comes_first() {
        for (index, (_, range)) in RANGES.iter().enumerate() {
            let earlier = RANGES.iter().take(index);
            for (_, wider) in earlier {
                assert!(!wider.contains(range), "{range} is hidden by {wider}");
            }
        }
    }
}
