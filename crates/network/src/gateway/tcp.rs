//! A TCP connection of the guest's: terminated here, and carried on by a socket of the host's.
//!
//! The host's connection comes first. Until it is there the guest's is not answered, so that the
//! guest sees what it would see without a gateway: a refusal is a refusal.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::flow::{Flow, Outcome, REVOKED, Totals};
use super::gate;
use super::packet::Packet;
use super::relay::{End, Relay};
use super::terminal::Terminal;
use crate::{Decision, Name};

/// How long the host's connection may take. The guest's own patience is about two minutes
/// (tcp(7), `tcp_syn_retries`).
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// Carries the connection until it has ended. Returns how it did.
pub(crate) async fn connection(
    flow: &Flow,
    decision: &Decision,
    packets: &mut mpsc::Receiver<Packet>,
    totals: &mut Totals,
) -> Outcome {
    let connected = tokio::select! {
        connected = connect(flow.upstream()) => connected,
        // For the guest a refusal as any other.
        () = flow.revoked(None) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, REVOKED)),
    };
    let mut host = match connected {
        Ok(host) => host,
        Err(error) if is_refusal(&error) => {
            refuse(flow, packets).await;
            return Outcome::Ended(error.to_string());
        }
        Err(error) => return Outcome::Unreachable(error.to_string()),
    };
    let mut relay = relay(flow, packets);
    let is_looked_into =
        matches!(decision, Decision::AllowedByName(_)) || flow.context.content.is_needed();
    let end = if is_looked_into {
        // Apart from the task of every other connection, as it takes several KiB.
        Box::pin(gate::pass(flow, &mut relay, host)).await
    } else {
        let end = carry(flow, &mut relay, &mut host, None).await;
        if !matches!(end, End::Closed | End::HostFailed(_)) {
            // What is lost for the guest is told to the server as it is: by a reset.
            let _is_gone = host.set_zero_linger();
        }
        end
    };
    totals.sent_bytes = relay.sent_bytes;
    totals.received_bytes = relay.received_bytes;
    describe(&end)
}

/// Refuses the guest's connection, whose first packet still waits.
pub(crate) async fn refuse(flow: &Flow, packets: &mut mpsc::Receiver<Packet>) {
    let reset = packets
        .recv()
        .await
        .and_then(|packet| flow.outgoing().reset(&packet));
    if let Some(reset) = reset {
        flow.outgoing().offer(reset);
    }
}

/// Moves bytes both ways until the connection ends, or a change of the policy denies it or the
/// name that it has shown.
pub(crate) async fn carry(
    flow: &Flow,
    relay: &mut Relay<'_>,
    host: &mut (impl AsyncRead + AsyncWrite + Unpin),
    shown: Option<&Name>,
) -> End {
    tokio::select! {
        end = relay.run(host) => return end,
        () = flow.revoked(shown) => {}
    }
    relay.reset().await;
    End::Revoked
}

/// Returns the gateway's end of the connection.
pub(crate) fn relay<'a>(flow: &Flow, packets: &'a mut mpsc::Receiver<Packet>) -> Relay<'a> {
    let context = &flow.context;
    let terminal = Terminal::listening(
        flow.key.destination,
        context.outgoing.link(),
        usize::from(context.link.mtu),
        context.seed(),
        context.buffers.take(),
    );
    Relay::new(terminal, packets, &context.outgoing)
}

/// Opens the host's side.
pub(crate) async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_PATIENCE, TcpStream::connect(to))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether the destination answered, and will not have the connection.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

/// Returns how a connection ended, for the log.
pub(crate) fn describe(end: &End) -> Outcome {
    Outcome::Ended(match end {
        End::Closed => "closed".to_owned(),
        End::ResetByGuest => "reset by the guest".to_owned(),
        End::HostFailed(error) => error.to_string(),
        End::LinkGone => "gateway ended".to_owned(),
        End::Refused => "denied by the name it showed".to_owned(),
        End::Revoked => REVOKED.to_owned(),
        End::Leak(secret) => format!("placeholder of secret {secret} refused"),
        End::Unreadable(reason) => reason.clone(),
    })
}
