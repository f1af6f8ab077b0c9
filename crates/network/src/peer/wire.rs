//! What two gateways say to each other before they carry a connection.
//!
//! ```text
//!   length: u16, big-endian    PeerHello as JSON        -->
//!                              <--    PeerAnswer: one byte
//!   TCP: see PeerStream; UDP: frames of one datagram each, as on a guest's link
//! ```

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::PeerName;
use crate::Protocol;

/// Version of all that two gateways say to each other.
const VERSION: u32 = 1;

/// Longest hello, in bytes; a name of 63, a proof of 64 and the rest are far below.
const MAX_HELLO_BYTES: u16 = 512;

/// What a gateway asks of a peer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The sandbox that asks. To be believed only with its proof.
    pub from: PeerName,
    /// What only the asking sandbox's owner knows.
    pub proof: String,
    /// What the connection is to carry: TCP or UDP.
    pub protocol: Protocol,
    /// The port of the guest; never 0.
    pub port: u16,
}

/// A hello as it is written.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    hello: T,
}

/// Why what came first on a connection is no hello.
#[derive(Debug, thiserror::Error)]
pub enum PeerHelloError {
    /// The connection failed or ended.
    #[error("receive a peer's hello")]
    Io(#[from] io::Error),
    /// It is longer than any.
    #[error("a peer's hello has {length} bytes; the longest has {MAX_HELLO_BYTES}")]
    TooLong {
        /// How long.
        length: u16,
    },
    /// It is no hello.
    #[error("a peer's hello is malformed")]
    Malformed(#[from] serde_json::Error),
    /// It is of another version of smolvm.
    #[error("a peer's hello has version {found}; this smolvm speaks version {VERSION}")]
    Version {
        /// The version.
        found: u32,
    },
    /// It asks for what peers do not have.
    #[error("a peer asks for {protocol:?} to port {port}")]
    Unsupported {
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
}

impl PeerHello {
    /// Sends the hello.
    ///
    /// # Errors
    ///
    /// When the stream fails.
    pub async fn send(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let hello = serde_json::to_vec(&Versioned {
            version: VERSION,
            hello: self,
        })?;
        let length = u16::try_from(hello.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let message = [&length.to_be_bytes()[..], &hello].concat();
        stream.write_all(&message).await
    }

    /// Receives a hello. How long that may take is the caller's business.
    ///
    /// # Errors
    ///
    /// When the stream fails, or carries something else.
    pub async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, PeerHelloError> {
        let length = stream.read_u16().await?;
        if length > MAX_HELLO_BYTES {
            return Err(PeerHelloError::TooLong { length });
        }
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await?;
        let Versioned { version, hello } =
            serde_json::from_slice::<Versioned<serde_json::Value>>(&bytes)?;
        if version != VERSION {
            return Err(PeerHelloError::Version { found: version });
        }
        let hello: Self = serde_json::from_value(hello)?;
        let Self { protocol, port, .. } = hello;
        if protocol == Protocol::Icmp || port == 0 {
            return Err(PeerHelloError::Unsupported { protocol, port });
        }
        Ok(hello)
    }
}

/// What a gateway answers to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerAnswer {
    /// The connection is there.
    Opened = 0,
    /// The guest refuses it.
    Refused = 1,
    /// The policy does, or whoever asks is no member of the same network.
    Denied = 2,
    /// The guest does not answer.
    Silent = 3,
}

impl PeerAnswer {
    /// Sends the answer.
    ///
    /// # Errors
    ///
    /// When the stream fails.
    pub async fn send(self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        stream.write_u8(self as u8).await
    }

    /// Receives an answer.
    ///
    /// # Errors
    ///
    /// When the stream fails or ends, or carries something else.
    pub async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        match stream.read_u8().await? {
            0 => Ok(Self::Opened),
            1 => Ok(Self::Refused),
            2 => Ok(Self::Denied),
            3 => Ok(Self::Silent),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("answer {other} of a peer's gateway is not known"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn hello() -> PeerHello {
        PeerHello {
            from: PeerName::new("web").expect("a label"),
            proof: "f".repeat(64),
            protocol: Protocol::Tcp,
            port: 5432,
        }
    }

    fn receive(bytes: &[u8]) -> Result<PeerHello, PeerHelloError> {
        // Bytes in memory are there at once.
        let mut bytes = bytes;
        PeerHello::receive(&mut bytes)
            .now_or_never()
            .expect("at once")
    }

    fn sent(hello: &PeerHello) -> Vec<u8> {
        let mut bytes = Vec::new();
        hello
            .send(&mut bytes)
            .now_or_never()
            .expect("at once")
            .expect("sent");
        bytes
    }

    fn message(json: &str) -> Vec<u8> {
        let length = u16::try_from(json.len()).expect("short");
        [&length.to_be_bytes()[..], json.as_bytes()].concat()
    }

    #[test]
    fn longest_hello_is_received_as_it_was_sent() {
        let longest = PeerHello {
            from: PeerName::new(&"x".repeat(63)).expect("a label"),
            port: 65_535,
            ..hello()
        };
        assert_eq!(receive(&sent(&longest)).expect("a hello"), longest);
    }

    #[test]
    fn what_is_no_hello_is_refused() {
        let error = |bytes: &[u8]| receive(bytes).expect_err("no hello");
        assert!(matches!(error(b""), PeerHelloError::Io(_)));
        assert!(matches!(error(b"\0\x10{"), PeerHelloError::Io(_)));
        assert!(matches!(
            error(b"GET / HTTP/1.1\r\n\r\n"),
            PeerHelloError::TooLong { .. }
        ));
        assert!(matches!(
            error(&message("{}")),
            PeerHelloError::Malformed(_)
        ));
        let newer = r#"{"version":2,"hello":{"anything":1}}"#;
        assert!(matches!(
            error(&message(newer)),
            PeerHelloError::Version { found: 2 }
        ));
    }

    #[test]
    fn hello_asks_for_a_port_of_tcp_or_udp() {
        let no_port = PeerHello { port: 0, ..hello() };
        let ping = PeerHello {
            protocol: Protocol::Icmp,
            ..hello()
        };
        for refused in [no_port, ping] {
            let error = receive(&sent(&refused)).expect_err("refused");
            assert!(matches!(error, PeerHelloError::Unsupported { .. }));
        }
    }

    #[test]
    fn name_in_a_hello_leaves_no_directory() {
        let climbing = String::from_utf8(sent(&hello()).split_off(2))
            .expect("JSON")
            .replace("web", "../web");
        assert!(matches!(
            receive(&message(&climbing)),
            Err(PeerHelloError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_hello(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(receive(&bytes).is_err());
        }

        #[test]
        fn answers_are_received_as_they_were_sent(byte in any::<u8>()) {
            let answer = PeerAnswer::receive(&mut &[byte][..]).now_or_never().expect("at once");
            match answer {
                Ok(answer) => prop_assert_eq!(answer as u8, byte),
                Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData),
            }
        }
    }
}
