//! Connects to a TCP port of the guest's loopback and relays bytes both ways.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use smolvm_protocol::message::{Connect, Event, RefusalCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Ending;
use crate::conversation::Conversation;
use crate::refusal;

/// How long a loopback connection may take. It takes microseconds unless the listener's queue
/// is full.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn run(mut conversation: Conversation, target: &Connect) -> Ending {
    if target.port == 0 {
        let refusal = refusal::invalid("a port must be 1 to 65535");
        return Err((refusal.into(), Some(conversation)));
    }
    let mut socket = match connect(target.port).await {
        Ok(socket) => socket,
        Err(error) => {
            let mut refusal = refusal::about(&format!("port {}", target.port), &error);
            if error.kind() == io::ErrorKind::TimedOut {
                refusal.code = RefusalCode::ConnectionRefused;
            }
            return Err((refusal.into(), Some(conversation)));
        }
    };
    if let Err(failure) = conversation.outgoing.send_event(&Event::Connected).await {
        return Err((failure, None));
    }
    // Both ends of the relay know how it went; there is nobody else to tell.
    let _ = relay(conversation, &mut socket).await;
    Ok(())
}

/// Tries IPv4 first, then IPv6: servers often listen on one of them only.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let attempts = async {
        let first = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
        match first {
            Ok(socket) => Ok(socket),
            Err(error) => TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
                .await
                .map_err(|_| error),
        }
    };
    let socket = tokio::time::timeout(CONNECT_DEADLINE, attempts)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Relays until both sides have closed, or one has failed. A side's close is passed on as a
/// half-close.
async fn relay(conversation: Conversation, socket: &mut TcpStream) -> io::Result<()> {
    let (mut host, read_ahead) = conversation.into_raw();
    socket.write_all(&read_ahead).await?;
    tokio::io::copy_bidirectional(&mut host, socket).await?;
    Ok(())
}
