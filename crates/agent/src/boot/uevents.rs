//! Waiting for devices: the kernel announces each one on a netlink socket
//! (lib/kobject_uevent.c), so nothing is polled.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::BootError;

/// Multicast group of the kernel's own announcements; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// Largest announcement (lib/kobject_uevent.c: `UEVENT_BUFFER_SIZE`), in bytes.
const ANNOUNCEMENT_BYTES: usize = 2048;

/// A subscription to the kernel's announcements.
#[derive(Debug)]
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    /// Subscribes. What is announced from now on is not missed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the socket.
    pub(crate) fn listen() -> Result<Self, BootError> {
        let listen = || -> Result<OwnedFd, Errno> {
            let socket = socket_with(
                AddressFamily::NETLINK,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                Some(netlink::KOBJECT_UEVENT),
            )?;
            bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
            Ok(socket)
        };
        listen()
            .map(Self)
            .map_err(|errno| BootError::Uevents(errno.into()))
    }

    /// Looks with `find` now and after each announcement, until it finds something or `patience`
    /// is over.
    pub(crate) fn wait_until<T>(
        &self,
        patience: Duration,
        mut find: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = find() {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.wait(left).is_err() {
                return find();
            }
        }
    }

    /// Waits for an announcement and takes all there are.
    fn wait(&self, patience: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut descriptors = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut buffer = [0_u8; ANNOUNCEMENT_BYTES];
        // An overflow (ENOBUFS) says that there were announcements, which is all that matters.
        while let Ok(_) | Err(Errno::NOBUFS) = recv(&self.0, &mut buffer, RecvFlags::empty()) {}
        Ok(())
    }
}
