//! Netlink: questions and wishes to the kernel. The one place that speaks it.
//!
//! [`routes`] is the kernel's network configuration, [`sockets`] what it knows of its sockets.
//!
//! The kernel carries a request out, and has its answer ready, before the call that sends it
//! returns, so nothing here waits.

pub(crate) mod routes;
pub(crate) mod sockets;

use std::os::fd::OwnedFd;

use netlink_packet_core::{
    Emitable, ErrorBuffer, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto,
    socket_with,
};

/// Room for the answers that come in one piece: what the kernel uses at most (Linux
/// include/linux/netlink.h, `NLMSG_GOODSIZE`; net/netlink/af_netlink.c, `netlink_dump`).
const ANSWER_BYTES: usize = 32 * 1024;

/// Messages in one piece start at multiples of this (netlink(7), `NLMSG_ALIGN`).
const MESSAGE_ALIGNMENT: usize = 4;

/// A connection to a part of the kernel.
#[derive(Debug)]
struct Socket(OwnedFd);

impl Socket {
    /// Opens one to the part that `protocol` is for; that of routes, number zero, when absent.
    fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).map(Self)
    }

    fn send(&self, kind: u16, flags: u16, request: &impl Emitable) -> Result<(), Errno> {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        header.flags = flags | NLM_F_REQUEST;
        let length = header.buffer_len() + request.buffer_len();
        header.length = u32::try_from(length).map_err(|_| Errno::MSGSIZE)?;
        let mut message = vec![0; length];
        header.emit(&mut message);
        request.emit(&mut message[header.buffer_len()..]);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.0, &message, SendFlags::empty(), &kernel).map(|_| ())
    }

    /// Hands every message of the answer, by kind and content, to `take`, up to the last one.
    fn answers(&self, mut take: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let (length, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            if is_last(&buffer[..length], &mut take)? {
                return Ok(());
            }
        }
    }
}

/// Hands the messages of one piece to `take`. Returns whether the answer ends in it.
fn is_last(piece: &[u8], take: &mut impl FnMut(u16, &[u8])) -> Result<bool, Errno> {
    let mut rest = piece;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(|_| Errno::BADMSG)?;
        let bytes = usize::try_from(message.length()).map_err(|_| Errno::BADMSG)?;
        match message.message_type() {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return outcome(message.payload()).map(|()| true),
            kind => take(kind, message.payload()),
        }
        let next = bytes.next_multiple_of(MESSAGE_ALIGNMENT);
        rest = rest.get(next..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads an acknowledgement, which is an error with the number zero.
fn outcome(payload: &[u8]) -> Result<(), Errno> {
    let error = ErrorBuffer::new_checked(payload).map_err(|_| Errno::BADMSG)?;
    match error.code() {
        None => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code.get().saturating_abs())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns a message of `kind`, whose header says that it has `length` bytes.
    fn message(kind: u16, length: u32, payload: &[u8]) -> Vec<u8> {
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(payload);
        message
    }

    fn walk(piece: &[u8]) -> Result<(bool, usize), Errno> {
        let mut count = 0;
        is_last(piece, &mut |_, _| count += 1).map(|is_last| (is_last, count))
    }

    #[test]
    fn answer_ends_with_its_acknowledgement() {
        let found = message(libc::RTM_NEWADDR, 20, &[1, 2, 3, 4]);
        let end = message(NLMSG_ERROR, 36, &[0; 20]);
        assert_eq!(walk(&found), Ok((false, 1)));
        assert_eq!(walk(&[found, end].concat()), Ok((true, 1)));
    }

    #[test]
    fn refusal_is_the_error_it_names() {
        let mut payload = [0; 20];
        payload[..4].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(walk(&message(NLMSG_ERROR, 36, &payload)), Err(Errno::NOENT));
    }

    #[test]
    fn lengths_that_lie_are_an_error() {
        for length in [0, 15, 21, u32::MAX] {
            let lying = message(libc::RTM_NEWADDR, length, &[0; 4]);
            assert_eq!(walk(&lying), Err(Errno::BADMSG), "{length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_answers_come_to_an_end(
            piece in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let _result = walk(&piece);
        }
    }
}
