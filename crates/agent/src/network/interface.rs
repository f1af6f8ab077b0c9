//! The network interface: found by its hardware address, then given its own addresses and routes.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use smolvm_protocol::message::GuestNetwork;

use super::NetworkError;
use crate::netlink::routes::{Assigned, RouteSocket};

/// What the kernel must not do by itself on the interface, with the value that stops it (Linux
/// Documentation/networking/ip-sysctl.rst): wait for others who may have its address, and take
/// addresses and routes from router advertisements.
const IPV6_SETTINGS: [(&str, &str); 2] = [("accept_dad", "0"), ("accept_ra", "0")];

/// Configures the interface that `network` is for, and switches it on.
pub(super) fn configure(network: &GuestNetwork) -> Result<(), NetworkError> {
    let interface = Interface::find(network.mac)?;
    interface.set_mtu(network.mtu)?;
    let has_ipv6 = interface.restrain_ipv6()?;
    let mut wanted = vec![(
        (network.ipv4.address.into(), network.ipv4.prefix_length),
        network.ipv4.gateway.into(),
    )];
    if let Some(ipv6) = &network.ipv6
        && has_ipv6
    {
        let address = (ipv6.address.into(), ipv6.prefix_length);
        wanted.push((address, ipv6.gateway.into()));
    }
    interface.connect(&wanted)
}

/// An address, and the gateway that is reached from it.
type Wanted = (Assigned, IpAddr);

/// One interface of this kernel.
struct Interface {
    name: String,
    index: u32,
    /// Its directory in sysfs.
    directory: PathBuf,
}

impl Interface {
    fn find(mac: [u8; 6]) -> Result<Self, NetworkError> {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let found = fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .flatten()
            .find_map(|entry| {
                let directory = entry.path();
                let its_mac = fs::read_to_string(directory.join("address")).ok()?;
                let index = fs::read_to_string(directory.join("ifindex")).ok()?;
                (its_mac.trim_end() == mac).then_some(Self {
                    name: entry.file_name().into_string().ok()?,
                    index: index.trim_end().parse().ok()?,
                    directory,
                })
            });
        found.ok_or(NetworkError::NoInterface { mac })
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), NetworkError> {
        let (file, mtu) = (self.directory.join("mtu"), mtu.to_string());
        // A device that tells its driver has it already (Virtio 1.2 §5.1.4.1, `mtu`).
        if fs::read_to_string(&file).is_ok_and(|current| current.trim_end() == mtu) {
            return Ok(());
        }
        fs::write(&file, &mtu).map_err(|source| refused(format!("MTU {mtu}"), source))
    }

    /// Keeps the kernel from configuring IPv6 by itself. Returns whether it has IPv6.
    fn restrain_ipv6(&self) -> Result<bool, NetworkError> {
        let directory = Path::new("/proc/sys/net/ipv6/conf").join(&self.name);
        if !directory.exists() {
            return Ok(false);
        }
        for (setting, value) in IPV6_SETTINGS {
            fs::write(directory.join(setting), value)
                .map_err(|source| refused(format!("setting {setting}"), source))?;
        }
        Ok(true)
    }

    /// Switches the interface on with exactly the `wanted` addresses, and routes over it.
    fn connect(&self, wanted: &[Wanted]) -> Result<(), NetworkError> {
        let socket = RouteSocket::open().map_err(|errno| refused_by("netlink socket", errno))?;
        socket
            .switch_on(self.index)
            .map_err(|errno| refused_by("interface", errno))?;
        let present = socket
            .addresses(self.index)
            .map_err(|errno| refused_by("question for addresses", errno))?;
        let is_wanted = |one: &Assigned| wanted.iter().any(|(address, _)| address == one);
        for old in present.iter().filter(|one| !is_wanted(one)) {
            if !is_link_local(old.0) {
                socket
                    .remove_address(self.index, *old)
                    .map_err(|errno| refused_by(&format!("removal of {}", old.0), errno))?;
            }
        }
        for (address, gateway) in wanted {
            if !present.contains(address) {
                socket
                    .add_address(self.index, *address)
                    .map_err(|errno| refused_by(&format!("address {}", address.0), errno))?;
            }
            socket
                .set_default_route(self.index, *gateway)
                .map_err(|errno| refused_by(&format!("gateway {gateway}"), errno))?;
        }
        Ok(())
    }
}

/// Returns whether the kernel gave the address by itself; IPv6 does not work without it (RFC 4291
/// §2.8).
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address))
}

fn refused(what: String, source: io::Error) -> NetworkError {
    NetworkError::Interface { what, source }
}

fn refused_by(what: &str, errno: Errno) -> NetworkError {
    refused(what.to_owned(), errno.into())
}
