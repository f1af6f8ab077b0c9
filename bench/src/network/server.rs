//! The servers on the host's loopback that the guest talks to: HTTP and DNS.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use smolvm_bench::dns;
use smolvm_bench::http::{Method, parse_request_line, response_head};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Bytes read or written at once, at most.
const PIECE_BYTES: usize = 64 * 1024;

/// What all content is.
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// The ports of servers that run as long as this program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Servers {
    pub(crate) http: u16,
    pub(crate) dns: u16,
}

impl Servers {
    /// Starts the servers, in a thread of their own.
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let servers = Self {
            http: listener.local_addr()?.port(),
            dns: socket.local_addr()?.port(),
        };
        listener.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || {
            runtime.block_on(async { tokio::try_join!(serve_http(listener), serve_dns(socket)) })
        });
        Ok(servers)
    }
}

async fn serve_http(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that breaks off has seen why.
        tokio::spawn(serve_client(stream));
    }
}

async fn serve_client(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(PIECE_BYTES, stream);
    while let Some((method, bytes)) = read_head(&mut stream).await? {
        match method {
            Method::Get => {
                stream.write_all(response_head(bytes).as_bytes()).await?;
                let mut left = bytes;
                while left > 0 {
                    let piece = usize::try_from(left).unwrap_or(PIECE_BYTES);
                    let written = stream.write(&ZEROS[..piece.min(PIECE_BYTES)]).await?;
                    left -= u64::try_from(written).unwrap_or(left);
                }
            }
            Method::Post => {
                let mut content = (&mut stream).take(bytes);
                tokio::io::copy_buf(&mut content, &mut tokio::io::sink()).await?;
                stream.write_all(response_head(0).as_bytes()).await?;
            }
        }
    }
    Ok(())
}

/// Reads a request's head, unless the client has closed.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<(Method, u64)>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    Ok(head.lines().next().and_then(parse_request_line))
}

async fn serve_dns(socket: UdpSocket) -> io::Result<()> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut query = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut query).await?;
        if let Some(answer) = dns::answer(&query[..length]) {
            socket.send_to(&answer, client).await?;
        }
    }
}
