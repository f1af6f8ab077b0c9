//! What the kernel knows of its sockets, through sock_diag(7).
//!
//! It is asked for one socket, which it looks up in its tables as for a packet that comes in: the
//! question costs the same however many sockets and processes there are.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use netlink_packet_core::{Emitable, NLM_F_ACK, NlasIterator};
use rustix::io::Errno;
use rustix::net::netlink;
use smolvm_protocol::message::{Socket as Asked, SocketProtocol};

use super::Socket;

/// Kind of question and answer (linux/sock_diag.h, `SOCK_DIAG_BY_FAMILY`).
const BY_FAMILY: u16 = 20;

/// Length of a question (linux/inet_diag.h, `struct inet_diag_req_v2`), in bytes.
const QUESTION_BYTES: usize = 56;

/// Length of an answer without its attributes (`struct inet_diag_msg`), in bytes.
const ANSWER_BYTES: usize = 72;

/// Where both ports are in an answer: the guest's, then the other, in network byte order
/// (`struct inet_diag_sockid`).
const LOCAL_PORT: Range<usize> = 4..6;
const REMOTE_PORT: Range<usize> = 6..8;

/// Attribute with the number of the socket's cgroup, since Linux 5.9 (`INET_DIAG_CGROUP_ID`).
const CGROUP: u16 = 21;

/// Returns the number of the cgroup in which a socket was made, the directory's inode number;
/// `None` when there is no such socket any more.
///
/// # Errors
///
/// When the kernel does not say.
pub(crate) fn cgroup_of(asked: &Asked) -> Result<Option<u64>, Errno> {
    let socket = Socket::open(Some(netlink::SOCK_DIAG))?;
    socket.send(BY_FAMILY, NLM_F_ACK, &Question(asked))?;
    let mut found = None;
    match socket.answers(|kind, payload| {
        if kind == BY_FAMILY {
            found = cgroup_in(payload, asked);
        }
    }) {
        Ok(()) => Ok(found),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A question for one socket.
struct Question<'a>(&'a Asked);

impl Emitable for Question<'_> {
    fn buffer_len(&self) -> usize {
        QUESTION_BYTES
    }

    fn emit(&self, buffer: &mut [u8]) {
        let Asked {
            protocol,
            source,
            destination,
        } = *self.0;
        let family = match source {
            SocketAddr::V4(_) => libc::AF_INET,
            SocketAddr::V6(_) => libc::AF_INET6,
        };
        // UDP takes the two ends the other way round (Linux net/ipv4/udp_diag.c, `udp_dump_one`).
        let (number, first, second) = match protocol {
            SocketProtocol::Tcp => (libc::IPPROTO_TCP, source, destination),
            SocketProtocol::Udp => (libc::IPPROTO_UDP, destination, source),
        };
        buffer.fill(0);
        // Both are below 256.
        buffer[0] = family.to_le_bytes()[0];
        buffer[1] = number.to_le_bytes()[0];
        buffer[8..10].copy_from_slice(&first.port().to_be_bytes());
        buffer[10..12].copy_from_slice(&second.port().to_be_bytes());
        put_address(&mut buffer[12..28], first.ip());
        put_address(&mut buffer[28..44], second.ip());
        // Of any interface, and whatever its cookie (`INET_DIAG_NOCOOKIE`).
        buffer[48..56].fill(0xff);
    }
}

fn put_address(field: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(address) => field[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => field.copy_from_slice(&address.octets()),
    }
}

/// Returns the cgroup's number in an answer about the socket that was asked about. The kernel takes
/// a socket that listens, or one that is not connected, for one that it knows no better for: the
/// former has opened nothing, the latter may have.
fn cgroup_in(payload: &[u8], asked: &Asked) -> Option<u64> {
    let port = |range: Range<usize>| Some(u16::from_be_bytes(payload.get(range)?.try_into().ok()?));
    let remote_port = port(REMOTE_PORT)?;
    let is_unconnected = asked.protocol == SocketProtocol::Udp && remote_port == 0;
    if port(LOCAL_PORT)? != asked.source.port()
        || (remote_port != asked.destination.port() && !is_unconnected)
    {
        return None;
    }
    let attributes = NlasIterator::new(payload.get(ANSWER_BYTES..)?);
    attributes
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == CGROUP)
        .and_then(|attribute| Some(u64::from_ne_bytes(attribute.value().try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CGROUP_NUMBER: u64 = 0x1_0000_04d2;

    fn asked(protocol: SocketProtocol) -> Asked {
        Asked {
            protocol,
            source: ([172, 16, 0, 2], 40_001).into(),
            destination: ([203, 0, 113, 7], 443).into(),
        }
    }

    /// Returns an answer about a socket with these ports, and the attribute `kind` with `value`.
    fn answer(ports: [u16; 2], kind: u16, value: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; ANSWER_BYTES];
        answer[LOCAL_PORT].copy_from_slice(&ports[0].to_be_bytes());
        answer[REMOTE_PORT].copy_from_slice(&ports[1].to_be_bytes());
        // `INET_DIAG_SHUTDOWN`, which has one byte and three of padding.
        answer.extend([5, 0, 8, 0, 0, 0, 0, 0]);
        let length = u16::try_from(4 + value.len()).expect("short");
        answer.extend(length.to_ne_bytes());
        answer.extend(kind.to_ne_bytes());
        answer.extend(value);
        answer
    }

    fn whole(ports: [u16; 2]) -> Vec<u8> {
        answer(ports, CGROUP, &CGROUP_NUMBER.to_ne_bytes())
    }

    #[test]
    fn question_has_both_ends_where_the_protocol_has_them() {
        let emitted = |protocol| {
            let asked = asked(protocol);
            let mut bytes = [0xaa; QUESTION_BYTES];
            Question(&asked).emit(&mut bytes);
            bytes
        };
        let (tcp, udp) = (emitted(SocketProtocol::Tcp), emitted(SocketProtocol::Udp));
        assert_eq!(tcp[..4], [2, 6, 0, 0]);
        assert_eq!(udp[..4], [2, 17, 0, 0]);
        assert_eq!(tcp[8..12], [0x9c, 0x41, 0x01, 0xbb]);
        assert_eq!(udp[8..12], [0x01, 0xbb, 0x9c, 0x41]);
        assert_eq!(
            (&tcp[12..16], &tcp[28..32]),
            (&[172, 16, 0, 2][..], &[203, 0, 113, 7][..])
        );
        assert_eq!(
            (&udp[12..16], &udp[28..32]),
            (&[203, 0, 113, 7][..], &[172, 16, 0, 2][..])
        );
    }

    #[test]
    fn cgroup_is_found_behind_other_attributes() {
        let found = cgroup_in(&whole([40_001, 443]), &asked(SocketProtocol::Tcp));
        assert_eq!(found, Some(CGROUP_NUMBER));
    }

    #[test]
    fn socket_that_is_not_connected_answers_for_datagrams_only() {
        let loose = whole([40_001, 0]);
        assert_eq!(
            cgroup_in(&loose, &asked(SocketProtocol::Udp)),
            Some(CGROUP_NUMBER)
        );
        assert_eq!(cgroup_in(&loose, &asked(SocketProtocol::Tcp)), None);
    }

    #[test]
    fn answer_about_another_socket_is_none() {
        for ports in [[40_002, 443], [40_001, 80]] {
            assert_eq!(cgroup_in(&whole(ports), &asked(SocketProtocol::Tcp)), None);
        }
    }

    #[test]
    fn answer_that_is_cut_anywhere_is_none() {
        let whole = whole([40_001, 443]);
        for length in 0..whole.len() {
            let cut = cgroup_in(&whole[..length], &asked(SocketProtocol::Tcp));
            assert_eq!(cut, None, "cut at {length}");
        }
    }

    #[test]
    fn cgroup_of_another_length_is_none() {
        let short = answer([40_001, 443], CGROUP, &[1, 2, 3, 4]);
        assert_eq!(cgroup_in(&short, &asked(SocketProtocol::Tcp)), None);
        // A time-wait socket has no such attribute at all.
        let without = answer([40_001, 443], CGROUP + 1, &CGROUP_NUMBER.to_ne_bytes());
        assert_eq!(cgroup_in(&without, &asked(SocketProtocol::Tcp)), None);
    }

    proptest! {
        #[test]
        fn arbitrary_attributes_come_to_an_end(
            attributes in proptest::collection::vec(any::<u8>(), 0..128),
        ) {
            let answer = [&whole([40_001, 443])[..ANSWER_BYTES], &attributes].concat();
            let _number = cgroup_in(&answer, &asked(SocketProtocol::Tcp));
        }
    }
}
