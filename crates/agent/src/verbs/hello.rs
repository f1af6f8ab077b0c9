//! Opens the session: generations are compared, the guest's clock is set, it becomes who it is to
//! be, its commands are limited and get their variables, and its network is set up.

use std::sync::Arc;

use rustix::time::{ClockId, Timespec};
use smolvm_protocol::message::{
    AgentHello, Event, HostHello, IDENTITY_CAPABILITY, Identity, NETWORK_CAPABILITY, Refusal,
    RefusalCode,
};
use smolvm_protocol::{GENERATION, OLDEST_GENERATION};

use crate::conversation::{Conversation, Failure};
use crate::identity;
use crate::network::{self, NetworkError, trust};
use crate::refusal;
use crate::session::Environment;

/// How far the guest's clock may be off before it is set. The message's own way takes some
/// milliseconds, so setting it always would make a good clock worse.
const CLOCK_TOLERANCE_NS: u64 = 50_000_000;

const NANOSECONDS: u64 = 1_000_000_000;

pub(super) async fn run(
    host: &mut Conversation,
    hello: &HostHello,
    environment: &Arc<Environment>,
) -> Result<(), Failure> {
    if hello.generation < OLDEST_GENERATION || hello.oldest_generation > GENERATION {
        let message = format!(
            "the agent speaks generations {OLDEST_GENERATION} to {GENERATION}, the host {} to {}",
            hello.oldest_generation, hello.generation
        );
        return Err(refusal::refused(RefusalCode::Incompatible, &message).into());
    }
    if environment.is_init {
        set_clock(hello.unix_time_ns);
        if let Some(identity) = hello.identity.clone() {
            become_somebody(identity).await?;
        }
    }
    if let Some(count) = hello.max_processes {
        limit_processes(count, environment)?;
    }
    if let Some(variables) = &hello.variables {
        environment.set_variables(variables.clone());
    }
    if hello.network.is_some() || hello.ca_certificate.is_some() {
        set_up_network(hello, environment).await?;
    }
    let answer = AgentHello {
        generation: GENERATION,
        oldest_generation: OLDEST_GENERATION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: [NETWORK_CAPABILITY, IDENTITY_CAPABILITY]
            .map(str::to_owned)
            .into(),
        kernel_release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        boot: environment.boot,
    };
    host.outgoing.send_event(&Event::Hello(answer)).await?;
    environment.note_hello();
    Ok(())
}

/// Gives the guest its identity. A host must not be left to believe that it differs from others of
/// the same recording when it does not.
async fn become_somebody(identity: Identity) -> Result<(), Failure> {
    let work = tokio::task::spawn_blocking(move || identity::assume(&identity));
    // The panic hook has reported a panic.
    let done = work.await.map_err(|_| Failure::HostGone)?;
    done.map_err(|error| refusal::refused(RefusalCode::Io, &error.to_string()).into())
}

/// Limits the processes of all commands together. A host that asks for it must not be left to
/// believe in a limit that is not there.
fn limit_processes(count: u32, environment: &Environment) -> Result<(), Refusal> {
    let Some(cgroups) = &environment.cgroups else {
        return Err(refusal::invalid(
            "the guest has no cgroups to limit its processes with",
        ));
    };
    cgroups
        .limit_processes(count)
        .map_err(|error| refusal::invalid(&error.to_string()))
}

/// Gives the guest its network. A host that asks for one must not be left to believe in one that
/// is not there.
async fn set_up_network(hello: &HostHello, environment: &Arc<Environment>) -> Result<(), Failure> {
    if !environment.is_init {
        let message = "the agent is not the init of a guest, whose network it could set up";
        return Err(refusal::invalid(message).into());
    }
    let driver = environment.take_network_driver();
    let (network, certificate) = (hello.network.clone(), hello.ca_certificate.clone());
    let work = tokio::task::spawn_blocking(move || -> Result<bool, NetworkError> {
        if let Some(network) = &network {
            if let Some(driver) = driver {
                driver.wait();
            }
            network::set_up(network)?;
        }
        if let Some(certificate) = &certificate {
            trust::install(certificate)?;
        }
        Ok(certificate.is_some())
    });
    // The panic hook has reported a panic.
    let trusts_gateway = work
        .await
        .map_err(|_| Failure::HostGone)?
        .map_err(|error| refusal::refused(RefusalCode::Io, &error.to_string()))?;
    if trusts_gateway {
        environment.note_trust();
    }
    Ok(())
}

/// Sets the clock where it is wrong. A host that names an impossible time changes nothing.
fn set_clock(unix_time_ns: u64) {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    if nanoseconds(now).is_some_and(|now| now.abs_diff(unix_time_ns) <= CLOCK_TOLERANCE_NS) {
        return;
    }
    let (Ok(tv_sec), Ok(tv_nsec)) = (
        i64::try_from(unix_time_ns / NANOSECONDS),
        i64::try_from(unix_time_ns % NANOSECONDS),
    ) else {
        return;
    };
    let _ = rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec });
}

fn nanoseconds(time: Timespec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let rest = u64::try_from(time.tv_nsec).ok()?;
    seconds.checked_mul(NANOSECONDS)?.checked_add(rest)
}
