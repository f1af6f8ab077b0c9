//! The kernel's random numbers.
//!
//! The multiplexer draws one when a session starts, and every program draws some. Until the
//! kernel has collected entropy they wait (random(7)): in a guest without RDRAND, virtio-rng or a
//! precise clock, for minutes.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::console;

/// Says so on the console when random numbers have to be waited for.
pub(crate) fn report_if_missing() {
    let mut number = [0_u8; 1];
    if getrandom(&mut number, GetRandomFlags::NONBLOCK) == Err(Errno::AGAIN) {
        console::report(
            "waiting for random numbers: the machine has neither RDRAND nor a virtio-rng device \
             whose driver is among the boot modules",
        );
    }
}
