//! What an address stands for: itself, and the IPv4 address that some IPv6 addresses carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address, as it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    itself: IpAddr,
    embedded: Option<Ipv4Addr>,
}

impl Judged {
    pub(super) fn new(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self {
                itself: address,
                embedded: None,
            },
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                // A socket that connects there sends IPv4 (RFC 4291 §2.5.5.2).
                Some(v4) => Self {
                    itself: v4.into(),
                    embedded: None,
                },
                None => Self {
                    itself: address,
                    embedded: embedded(v6),
                },
            },
        }
    }

    /// Returns the addresses that are reached, or may be, by a packet to this one.
    pub(super) fn addresses(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.itself).chain(self.embedded.map(IpAddr::V4))
    }
}

/// Returns the IPv4 address to which a translator or a tunnel of the host's network would carry a
/// packet with this destination.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    let v4_at = |shift: u32| {
        let four = (bits >> shift) & u128::from(u32::MAX);
        u32::try_from(four).ok().map(Ipv4Addr::from_bits)
    };
    match address.segments() {
        // NAT64, 64:ff9b::/96 (RFC 6052 §2.1).
        [0x0064, 0xff9b, 0, 0, 0, 0, _, _] => v4_at(0),
        // 6to4, 2002::/16 (RFC 3056 §2).
        [0x2002, ..] => v4_at(80),
        // Teredo, 2001::/32: the client's address with all bits flipped (RFC 4380 §4).
        [0x2001, 0, ..] => v4_at(0).map(|flipped| Ipv4Addr::from_bits(!flipped.to_bits())),
        // IPv4-compatible, ::/96, which nothing should use any more (RFC 4291 §2.5.5.1). `::` and
        // `::1` are themselves.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => v4_at(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_carry_others_stand_for_both() {
        for (text, expected) in [
            ("198.51.100.1", &["198.51.100.1"][..]),
            ("::ffff:10.0.0.1", &["10.0.0.1"]),
            ("64:ff9b::10.0.0.1", &["64:ff9b::a00:1", "10.0.0.1"]),
            ("2002:a00:1::5", &["2002:a00:1::5", "10.0.0.1"]),
            // RFC 4380 §4's own layout, with the client 192.0.2.45.
            (
                "2001:0:4136:e378:8000:63bf:3fff:fdd2",
                &["2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45"],
            ),
            ("::10.0.0.1", &["::a00:1", "10.0.0.1"]),
            ("::1", &["::1"]),
            ("2001:db8::a00:1", &["2001:db8::a00:1"]),
        ] {
            let judged = Judged::new(text.parse().expect("an address"));
            let found: Vec<String> = judged.addresses().map(|found| found.to_string()).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
