//! Tells which commands have opened sockets, one after the other.
//!
//! The kernel knows in which cgroup a socket was made, and each command has one of its own. Nothing
//! is read of processes: they can be many, and the one that made a socket may be gone.

use std::sync::Arc;

use smolvm_protocol::message::{Event, Owner, Socket};

use crate::conversation::{Conversation, Failure};
use crate::netlink::sockets;
use crate::refusal;
use crate::session::Environment;

pub(super) async fn run(
    host: &mut Conversation,
    environment: &Arc<Environment>,
) -> Result<(), Failure> {
    if let Some(modules) = environment.take_socket_modules() {
        // The panic hook has reported a panic.
        let work = tokio::task::spawn_blocking(move || modules.load());
        work.await.map_err(|_| Failure::HostGone)?;
    }
    // Between two questions there can be any time.
    while let Some(frame) = host.incoming.next().await {
        let socket = frame?
            .parse()
            .map_err(|error| refusal::malformed(&error.to_string()))?;
        let owner = owner_of(&socket, environment);
        host.outgoing.send_event(&Event::Owner(owner)).await?;
    }
    Ok(())
}

fn owner_of(socket: &Socket, environment: &Environment) -> Option<Owner> {
    let cgroups = environment.cgroups.as_ref()?;
    // A kernel that cannot say knows no owner.
    let cgroup = sockets::cgroup_of(socket).ok().flatten()?;
    cgroups.owner(cgroup)
}
