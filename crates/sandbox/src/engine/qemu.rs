//! QEMU's microvm machine.
//!
//! ```text
//!   supervisor --spawn--> smolvm-vmm jail --exec--> qemu-system-x86_64
//!      |  fd 3 <-> virtio-console port of the agent
//!      |  fd 4 <-> QMP
//!      |  fd 5 <-- serial console
//!      |  fd 6 <-> Ethernet frames, where the guest has a network
//!      +- stderr <-- QEMU's own messages
//! ```
//!
//! QEMU gets sockets, not paths, so nobody else can connect to them, and the end of the
//! supervisor is the end of each. It dies with the supervisor (`PR_SET_PDEATHSIG`, in the jail).

pub mod arguments;
mod facts;
mod qmp;
mod recording;

use std::fs::File;
use std::io;
use std::process::ExitStatus;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use smolvm_protocol::vmm::MachineStats;
use tokio::io::AsyncRead;
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::connection::{self, Streams};
use super::{
    BootError, BootPlan, Capabilities, Engine, EnginePlan, Machine, MachineExit, Origin, Recording,
    Stream,
};
use crate::jail;
pub use facts::{MIN_VERSION, QemuFacts, inspect};
use qmp::{Qmp, ShutdownReason};

/// The engine `qemu`.
#[derive(Clone, Copy, Debug)]
pub struct Qemu;

impl Engine for Qemu {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            has_process: true,
            has_console: true,
            can_record: true,
        }
    }

    fn boot<'a>(
        &'a self,
        plan: &'a BootPlan,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>, BootError>> {
        async move {
            let mut machine = start(plan)?;
            if let Origin::Recording(recording) = &plan.origin {
                machine.go_on(recording).await?;
            }
            Ok(Box::new(machine) as Box<dyn Machine>)
        }
        .boxed()
    }
}

fn start(plan: &BootPlan) -> Result<QemuMachine, BootError> {
    let EnginePlan::Qemu {
        program,
        launcher,
        accelerator,
        tsc_khz,
    } = &plan.engine
    else {
        unreachable!("engine_of hands a plan only to the engine that it names");
    };
    let arguments = arguments::of(plan, *accelerator, *tsc_khz);
    let jail = jail::of_qemu(program, arguments, plan, *accelerator);
    let has_network = plan.network.is_some();
    let state = recording::open_state(plan)?;
    let spawned = connection::spawn(launcher, &["jail".into()], &jail, has_network)?;
    Ok(QemuMachine {
        streams: spawned.streams,
        qmp: Qmp::start(spawned.control).map_err(BootError::Socket)?,
        messages: spawned.messages,
        state,
        exit: None,
        child: spawned.child,
    })
}

/// One QEMU process.
struct QemuMachine {
    streams: Streams,
    qmp: Qmp,
    messages: JoinHandle<Vec<String>>,
    /// The file of the state, until it is written or read.
    state: Option<File>,
    exit: Option<MachineExit>,
    child: Child,
}

impl QemuMachine {
    /// Has the machine be the recorded one. A QEMU that does not is ended.
    async fn go_on(&mut self, recording: &Recording) -> Result<(), BootError> {
        let state = self.state.take().expect("it was opened for that");
        let Err(error) = self.qmp.load_state(&state).await else {
            return Ok(());
        };
        let mut message = format!("go on from {}: {error}", recording.state.display());
        let _ended_already = self.child.start_kill();
        for line in (&mut self.messages).await.unwrap_or_default() {
            message.push_str("; ");
            message.push_str(&line);
        }
        Err(BootError::Refused { message })
    }

    async fn wait_for_end(&mut self) -> MachineExit {
        if let Some(exit) = &self.exit {
            return exit.clone();
        }
        let status = self.child.wait().await;
        let reason = self.qmp.shutdown_reason().await;
        let messages = (&mut self.messages).await.unwrap_or_default();
        let exit = classify(&status, reason, messages);
        self.exit = Some(exit.clone());
        exit
    }
}

fn classify(
    status: &io::Result<ExitStatus>,
    reason: Option<ShutdownReason>,
    messages: Vec<String>,
) -> MachineExit {
    let has_succeeded = status.as_ref().is_ok_and(ExitStatus::success);
    match reason {
        Some(ShutdownReason::PoweredOff) if has_succeeded => MachineExit::PoweredOff,
        Some(ShutdownReason::Reset) if has_succeeded => MachineExit::Reset,
        _ => MachineExit::VmmEnded {
            status: match status {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            messages,
        },
    }
}

impl Machine for QemuMachine {
    fn take_agent_stream(&mut self) -> Option<Box<dyn Stream>> {
        self.streams.take_agent()
    }

    fn take_console(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        self.streams.take_console()
    }

    fn take_network(&mut self) -> Option<Box<dyn Stream>> {
        self.streams.take_network()
    }

    fn vmm_pid(&self) -> Option<u32> {
        self.child.id()
    }

    fn stats(&mut self) -> BoxFuture<'_, io::Result<Option<MachineStats>>> {
        futures::future::ready(Ok(None)).boxed()
    }

    fn press_power_button(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.qmp.power_down().boxed()
    }

    fn pause(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.qmp.set_paused(true).boxed()
    }

    fn resume(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.qmp.set_paused(false).boxed()
    }

    fn resume_soon(&mut self) {
        self.qmp.resume_soon();
    }

    fn agent_port_closed(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.qmp.agent_port_closed().boxed()
    }

    fn record(&mut self) -> BoxFuture<'_, io::Result<()>> {
        async {
            let state = self.state.take().ok_or(io::ErrorKind::Unsupported)?;
            self.qmp.save_state(&state).await
        }
        .boxed()
    }

    fn wait(&mut self) -> BoxFuture<'_, MachineExit> {
        self.wait_for_end().boxed()
    }

    fn kill(&mut self) {
        // Fails only when the process has ended already, which is what is wanted.
        let _ended_already = self.child.start_kill();
    }
}

#[cfg(test)]
mod tests;
