//! The ways out of the guest that are compared.

use std::net::{Ipv4Addr, SocketAddr};

use smolvm_sandbox::network;

/// Leading bits of the addresses on each link.
pub(crate) const PREFIX_LENGTH: u8 = 24;

/// A way out of the guest. Each is a network device of its own, with a link of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// SmolVM's gateway, which lets everything public pass.
    Gateway,
    /// SmolVM's gateway, with many rules and nothing allowed but by them.
    Restricted,
    /// QEMU's own, libslirp inside its process.
    Slirp,
    /// passt, a process beside QEMU.
    Passt,
}

impl Path {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Gateway, Self::Restricted, Self::Slirp, Self::Passt];

    /// Returns its place in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Returns its name in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Restricted => "gateway with 1,000 rules",
            Self::Slirp => "slirp",
            Self::Passt => "passt",
        }
    }

    /// Returns the hardware address of the guest's device.
    pub(crate) const fn mac(self) -> [u8; 6] {
        // Locally administered (IEEE 802); the number keeps them apart.
        [0x02, b'b', b'e', b'n', b'c', self as u8]
    }

    /// Returns the largest packet on the link, in bytes: SmolVM's own; what QEMU's network has,
    /// which offers no other; what passt tells guests by DHCP (passt(1), `--mtu`).
    pub(crate) const fn mtu(self) -> u16 {
        match self {
            Self::Gateway | Self::Restricted => network::MTU,
            Self::Slirp => 1500,
            Self::Passt => 65_520,
        }
    }

    /// Returns the guest's address.
    pub(crate) const fn guest(self) -> Ipv4Addr {
        self.on_link(2)
    }

    /// Returns the address of the link's other end.
    pub(crate) const fn router(self) -> Ipv4Addr {
        self.on_link(1)
    }

    /// Returns the address that stands for the host's loopback. The gateway's is outside the link,
    /// as that of every sandbox is.
    pub(crate) const fn host(self) -> Ipv4Addr {
        match self {
            Self::Gateway | Self::Restricted => Ipv4Addr::new(172, 21, self as u8, 1),
            Self::Slirp | Self::Passt => self.router(),
        }
    }

    /// Returns where the guest asks for names: the gateway has a resolver of its own, and the
    /// others pass on what the guest asks the server.
    pub(crate) fn resolver(self, server: u16) -> SocketAddr {
        match self {
            Self::Gateway | Self::Restricted => (self.router(), 53).into(),
            Self::Slirp | Self::Passt => (self.host(), server).into(),
        }
    }

    const fn on_link(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 20, self as u8, host)
    }
}
