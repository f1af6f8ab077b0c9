//! What every VMM is connected by: sockets that nobody else can reach, and its error output.
//!
//! All of them get sockets, not paths, at the same descriptors: [`AGENT_FD`], [`CONTROL_FD`],
//! [`CONSOLE_FD`] and, where the guest has a network, [`NETWORK_FD`].

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;

use bytes::BytesMut;
use smolvm_jail::JailPlan;
use smolvm_protocol::vmm::{AGENT_FD, CONSOLE_FD, CONTROL_FD, NETWORK_FD};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::{BootError, Stream};
use crate::process::{self, InheritedFd};
use crate::text;

/// Our ends of the streams that a machine hands out, each once.
pub(super) struct Streams {
    agent: Option<UnixStream>,
    console: Option<UnixStream>,
    network: Option<UnixStream>,
}

impl Streams {
    /// See [`Machine::take_agent_stream`](super::Machine::take_agent_stream).
    pub(super) fn take_agent(&mut self) -> Option<Box<dyn Stream>> {
        let agent = self.agent.take();
        agent.map(|stream| Box::new(stream) as Box<dyn Stream>)
    }

    /// See [`Machine::take_console`](super::Machine::take_console).
    pub(super) fn take_console(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        let console = self.console.take();
        console.map(|stream| Box::new(stream) as Box<dyn AsyncRead + Send + Unpin>)
    }

    /// See [`Machine::take_network`](super::Machine::take_network).
    pub(super) fn take_network(&mut self) -> Option<Box<dyn Stream>> {
        let network = self.network.take();
        network.map(|stream| Box::new(stream) as Box<dyn Stream>)
    }
}

/// A VMM that has just been started.
pub(super) struct Spawned {
    /// Its process.
    pub(super) child: Child,
    /// Our end of what it is controlled by.
    pub(super) control: BlockingStream,
    /// Our ends of what the guest is connected by.
    pub(super) streams: Streams,
    /// The last lines of its error output, when it has ended.
    pub(super) messages: JoinHandle<Vec<String>>,
}

/// Starts a VMM in its jail, with sockets at the descriptors that it expects.
pub(super) fn spawn(
    launcher: &Path,
    arguments: &[OsString],
    jail: &JailPlan,
    has_network: bool,
) -> Result<Spawned, BootError> {
    let (agent, agent_fd) = socket_pair().map_err(BootError::Socket)?;
    let (control, control_fd) = socket_pair().map_err(BootError::Socket)?;
    let (console, console_fd) = socket_pair().map_err(BootError::Socket)?;
    let network = has_network.then(socket_pair).transpose();
    let (network, network_fd) = network.map_err(BootError::Socket)?.unzip();
    let inherited = [
        (agent_fd, AGENT_FD),
        (control_fd, CONTROL_FD),
        (console_fd, CONSOLE_FD),
    ];
    let inherited = inherited
        .into_iter()
        .chain(network_fd.map(|fd| (fd, NETWORK_FD)))
        .map(|(fd, number)| InheritedFd { fd, number })
        .collect();
    let spawned = process::spawn_jailed(launcher, arguments, jail, inherited);
    let mut child = spawned.map_err(|source| BootError::Spawn {
        program: launcher.to_owned(),
        source,
    })?;
    let stderr = child.stderr.take();
    let stderr = stderr.expect("spawn_jailed pipes the error output");
    Ok(Spawned {
        control,
        streams: Streams {
            agent: Some(asynchronous(agent)?),
            console: Some(asynchronous(console)?),
            network: network.map(asynchronous).transpose()?,
        },
        messages: tokio::spawn(last_lines(stderr)),
        child,
    })
}

/// Returns our end of a socket pair and the VMM's.
fn socket_pair() -> io::Result<(BlockingStream, OwnedFd)> {
    let (ours, theirs) = BlockingStream::pair()?;
    Ok((ours, theirs.into()))
}

/// Returns the same stream for tasks.
pub(super) fn asynchronous(stream: BlockingStream) -> Result<UnixStream, BootError> {
    let set_up = stream.set_nonblocking(true);
    let stream = set_up.and_then(|()| UnixStream::from_std(stream));
    stream.map_err(BootError::Socket)
}

/// Lines of a VMM's error output that are kept.
const MAX_LINES: usize = 20;

/// Reads a VMM's error output to its end and returns its last lines, made printable.
async fn last_lines(mut stream: impl AsyncRead + Unpin) -> Vec<String> {
    let mut tail = text::Tail::new(MAX_LINES);
    let mut buffer = BytesMut::with_capacity(4096);
    loop {
        buffer.clear();
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => tail.push(&buffer),
        }
    }
    tail.lines()
}
