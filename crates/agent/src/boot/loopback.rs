//! Switches the loopback interface on; the kernel then gives it 127.0.0.1 and ::1 itself.

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

use super::console;

/// Number of the loopback interface: the first of every network namespace
/// (linux/netdevice.h, `LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: i32 = 1;

/// Numbers of rtnetlink(7), netlink(7) and netdevice(7).
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const IFF_UP: u32 = 1;

/// Switches loopback on. A guest without it runs, so a failure is only reported.
pub(crate) fn switch_on() {
    if let Err(errno) = send_request() {
        console::report(&format!("loopback not switched on: {errno}"));
    }
}

fn send_request() -> Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is the first protocol, number zero.
    )?;
    // The kernel carries the request out before the call returns.
    sendto(
        &socket,
        &request(),
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )
    .map(|_| ())
}

/// `struct nlmsghdr` and `struct ifinfomsg`, 16 bytes each.
fn request() -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]); // Sequence number and port, of which there are no others.
    message.extend([0; 4]); // Family, padding and type: unspecified.
    message.extend(LOOPBACK_INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // Which flags change.
    message
}
