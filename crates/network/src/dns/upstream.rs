//! The resolvers of the host's network, which are asked what the gateway does not know.
//!
//! Each question goes from a socket of its own, with a port and an identifier that the kernel and
//! a random generator choose: an answer forged from off the path has to guess both (RFC 5452).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::answer::MAX_UDP_BYTES;
use super::question::Question;
use super::wire;

/// How long a question may take. A guest's C library asks again after 5 s (resolv.conf(5),
/// `timeout`), and should have been answered by then.
const DEADLINE: Duration = Duration::from_secs(4);

/// How often each server is asked.
const ROUNDS: usize = 2;

/// How long one server has, at least, when there are many.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);

/// Questions that are under way at once, at most; each has a socket and a buffer.
const MAX_LOOKUPS: usize = 128;

/// Longest datagram that is read: servers may send more than they were asked to.
const BUFFER_BYTES: usize = 4096;

/// Port of a DNS server (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// Servers that are used of those in the file (resolv.conf(5): `MAXNS`).
const MAX_SYSTEM_SERVERS: usize = 3;

const SYSTEM_CONFIGURATION: &str = "/etc/resolv.conf";

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamConfig {
    /// The servers of the host's `/etc/resolv.conf`, whatever they are at the time.
    System,
    /// These servers.
    Servers(Vec<SocketAddr>),
}

/// Why nobody has answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("{SYSTEM_CONFIGURATION} not read")]
    Configuration(#[source] io::Error),
    #[error("no server to ask")]
    NoServer,
    #[error("more than {MAX_LOOKUPS} questions at once")]
    Busy,
    #[error("no answer from {server} within its time")]
    Silent { server: SocketAddr },
    #[error("no answer from {server}: {error}")]
    Unreachable {
        server: SocketAddr,
        error: io::Error,
    },
    #[error("no answer from {server} that can be read")]
    Garbage { server: SocketAddr },
    #[error("the question cannot be written")]
    Question,
}

/// Asks the servers.
#[derive(Debug)]
pub(super) struct Upstream {
    config: UpstreamConfig,
    lookups: Semaphore,
}

impl Upstream {
    pub(super) fn new(config: UpstreamConfig) -> Self {
        Self {
            config,
            lookups: Semaphore::new(MAX_LOOKUPS),
        }
    }

    /// Returns the answer of the first server that has one; that of one which could not find out
    /// counts only when no other has a better one.
    pub(super) async fn look_up(&self, question: &Question) -> Result<Message, UpstreamError> {
        let _place = self
            .lookups
            .try_acquire()
            .map_err(|_| UpstreamError::Busy)?;
        let servers = self.servers().await?;
        let attempts = u32::try_from(servers.len() * ROUNDS).unwrap_or(u32::MAX);
        let attempt = (DEADLINE / attempts.max(1)).max(MIN_ATTEMPT);
        let deadline = Instant::now() + DEADLINE;
        let mut failure = Err(UpstreamError::NoServer);
        for &server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let until = deadline.min(now + attempt);
            match timeout_at(until, ask(server, question)).await {
                Ok(Ok(answer)) if is_failure(&answer) => failure = Ok(answer),
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if failure.is_err() => failure = Err(error),
                Err(_elapsed) if failure.is_err() => {
                    failure = Err(UpstreamError::Silent { server });
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        failure
    }

    async fn servers(&self) -> Result<Vec<SocketAddr>, UpstreamError> {
        match &self.config {
            UpstreamConfig::Servers(servers) => Ok(servers.clone()),
            // Read for each question: it is short, in memory, and changes with the host's network.
            UpstreamConfig::System => system_servers(Path::new(SYSTEM_CONFIGURATION))
                .await
                .map_err(UpstreamError::Configuration),
        }
    }
}

fn is_failure(answer: &Message) -> bool {
    !matches!(
        answer.metadata.response_code,
        ResponseCode::NoError | ResponseCode::NXDomain
    )
}

async fn system_servers(path: &Path) -> io::Result<Vec<SocketAddr>> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(name_servers(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(name_servers("")),
        Err(error) => Err(error),
    }
}

/// Returns the servers of a `resolv.conf`; without any, the host itself (resolv.conf(5)).
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = (words.next()? == "nameserver").then(|| words.next())??;
            let address: IpAddr = address.parse().ok()?;
            Some(SocketAddr::new(address, DNS_PORT))
        })
        .take(MAX_SYSTEM_SERVERS)
        .collect();
    if servers.is_empty() {
        return vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT)];
    }
    servers
}

/// Asks one server, in a datagram, and again in a stream when the answer does not fit.
async fn ask(server: SocketAddr, question: &Question) -> Result<Message, UpstreamError> {
    let unreachable = |error| UpstreamError::Unreachable { server, error };
    let request = request(question);
    let bytes = wire::encode(&request).ok_or(UpstreamError::Question)?;
    let answer = ask_in_datagram(server, &request, &bytes)
        .await
        .map_err(unreachable)?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let bytes = ask_in_stream(server, &bytes).await.map_err(unreachable)?;
    read_answer(&bytes, &request).ok_or(UpstreamError::Garbage { server })
}

/// Returns a new query with the guest's question.
fn request(question: &Question) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_BYTES);
    edns.set_dnssec_ok(question.is_dnssec_ok());
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.metadata.checking_disabled = question.is_checking_disabled;
    request.queries = vec![question.query.clone()];
    request.edns = Some(edns);
    request
}

/// Returns the answer that the bytes are to the request, if they are one.
fn read_answer(bytes: &[u8], request: &Message) -> Option<Message> {
    let answer = wire::decode(bytes)?;
    let is_answer = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == request.metadata.id
        && is_same_question(&answer.queries, &request.queries);
    is_answer.then_some(answer)
}

fn is_same_question(answered: &[Query], asked: &[Query]) -> bool {
    // Names are compared without regard to upper and lower case.
    answered == asked
}

async fn ask_in_datagram(
    server: SocketAddr,
    request: &Message,
    bytes: &[u8],
) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not answer the question may be forged, and the real answer still on its way.
        if let Some(answer) = buffer
            .get(..length)
            .and_then(|bytes| read_answer(bytes, request))
        {
            return Ok(answer);
        }
    }
}

async fn ask_in_stream(server: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    // In one piece, as servers may expect (RFC 7766 §8).
    let framed = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<String> {
        name_servers(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_of_the_system_are_read_in_their_order() {
        let text = "# by hand\nsearch example.com\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \n\
                    nameserver nonsense\noptions edns0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        assert_eq!(
            servers(text),
            ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]
        );
    }

    #[test]
    fn without_servers_the_host_is_asked() {
        assert_eq!(servers("search example.com\n"), ["127.0.0.1:53"]);
    }
}
