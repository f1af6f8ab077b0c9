//! Whose process is at the other end of a connection over the host's loopback.

use std::io;
use std::net::SocketAddr;

use procfs::net::TcpState;
use tokio::net::TcpStream;

/// Tells whether a process of this user, or of root, holds the other end of `socket`, which came
/// over the loopback.
///
/// An end that its process has closed already belongs to nobody: the kernel then gives it user 0
/// and inode 0 (Linux net/ipv4/tcp_ipv4.c, `get_tcp4_sock`; net/core/sock.c, `sock_i_ino`).
pub(super) async fn is_own(socket: &TcpStream) -> io::Result<bool> {
    let ends = [socket.peer_addr()?, socket.local_addr()?];
    let user = rustix::process::geteuid().as_raw();
    // The table grows with the connections of the whole host.
    tokio::task::spawn_blocking(move || holder(ends))
        .await?
        .map(|holder| holder.is_some_and(|holder| holder == user || holder == 0))
}

/// Returns the user of the open connection whose own address is the first of `ends`.
fn holder(ends: [SocketAddr; 2]) -> io::Result<Option<u32>> {
    // A program may reach an IPv4 address through an IPv6 socket, which the other table lists.
    let tables = [procfs::net::tcp, procfs::net::tcp6];
    for table in tables {
        let entries = match table() {
            Ok(entries) => entries,
            Err(procfs::ProcError::NotFound(_)) => continue,
            Err(error) => return Err(io::Error::other(error)),
        };
        let found = entries.into_iter().find(|entry| {
            [entry.local_address, entry.remote_address].map(canonical) == ends.map(canonical)
        });
        if let Some(entry) = found {
            let is_held = entry.inode != 0 && entry.state != TcpState::TimeWait;
            return Ok(is_held.then_some(entry.uid));
        }
    }
    Ok(None)
}

fn canonical(address: SocketAddr) -> (std::net::IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    async fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port")
    }

    #[tokio::test]
    async fn connection_of_this_process_is_its_own() {
        let listener = listener().await;
        let address = listener.local_addr().expect("bound");
        let _client = TcpStream::connect(address).await.expect("connected");
        let (socket, _) = listener.accept().await.expect("accepted");
        assert!(is_own(&socket).await.expect("looked up"));
    }

    #[tokio::test]
    async fn connection_through_an_ipv6_socket_is_found() {
        let listener = listener().await;
        let port = listener.local_addr().expect("bound").port();
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        let client = TcpSocket::new_v6().expect("a socket");
        let _client = client
            .connect((mapped, port).into())
            .await
            .expect("connected");
        let (socket, _) = listener.accept().await.expect("accepted");
        assert!(is_own(&socket).await.expect("looked up"));
    }

    #[tokio::test]
    async fn connection_that_was_closed_already_is_nobodys() {
        let listener = listener().await;
        let address = listener.local_addr().expect("bound");
        drop(TcpStream::connect(address).await.expect("connected"));
        let (socket, _) = listener.accept().await.expect("accepted");
        // Closed, not only shut down: the kernel has taken it from its process.
        assert!(!is_own(&socket).await.expect("looked up"));
    }

    #[tokio::test]
    async fn connection_of_another_user_is_not_ours() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can become another user");
            return;
        }
        let listener = listener().await;
        let port = listener.local_addr().expect("bound").port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -u 3");
        let mut nobody = tokio::process::Command::new("setpriv")
            .args(["--reuid=65534", "--clear-groups", "bash", "-c", &script])
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let (socket, _) = listener.accept().await.expect("accepted");
        assert!(!is_own(&socket).await.expect("looked up"));
        drop(socket);
        nobody.wait().await.expect("ended");
    }
}
