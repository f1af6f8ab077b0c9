//! Switches the loopback interface on; the kernel then gives it 127.0.0.1 and ::1 itself.

use super::console;
use crate::netlink::routes::RouteSocket;

/// Number of the loopback interface: the first of every network namespace
/// (linux/netdevice.h, `LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: u32 = 1;

/// Switches loopback on. A guest without it runs, so a failure is only reported.
pub(crate) fn switch_on() {
    let switched_on = RouteSocket::open().and_then(|socket| socket.switch_on(LOOPBACK_INDEX));
    if let Err(errno) = switched_on {
        console::report(&format!("loopback not switched on: {errno}"));
    }
}
