//! Our own monitor, `smolvm-vmm`, on KVM.
//!
//! ```text
//!   supervisor --spawn--> smolvm-vmm run --jailed
//!      |  fd 3 <-> virtio-console port of the agent
//!      |  fd 4 <-> control: the machine's description, requests, its end ([`control`])
//!      |  fd 5 <-- serial console
//!      |  fd 6 <-> Ethernet frames, where the guest has a network
//!      +- stderr <-- the monitor's own messages
//! ```
//!
//! The guest may take its monitor over, so what the monitor says is not trusted.

mod control;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustix::process::Signal;
use smolvm_protocol::vmm::{
    Disk, MachineDescription, MachineEnd, MachineStats, NetworkInterface, Request,
};
use smolvm_protocol::{
    HOSTNAME_PARAMETER, OVERLAY_DISK_SERIAL, ROOT_DISK_SERIAL, ROOT_PARAMETER, ROOT_SHARED,
};
use tokio::io::AsyncRead;
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::connection::{self, Streams};
use super::{BootError, BootPlan, Capabilities, Engine, EnginePlan, Machine, MachineExit, Stream};
use crate::jail;
use control::Control;

/// The engine `kvm`.
#[derive(Clone, Copy, Debug)]
pub struct Kvm;

impl Engine for Kvm {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            has_process: true,
            has_console: true,
            can_record: false,
        }
    }

    fn boot<'a>(
        &'a self,
        plan: &'a BootPlan,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>, BootError>> {
        async move {
            let mut machine = start(plan)?;
            machine.boot(plan).await?;
            Ok(Box::new(machine) as Box<dyn Machine>)
        }
        .boxed()
    }
}

fn start(plan: &BootPlan) -> Result<KvmMachine, BootError> {
    let EnginePlan::Kvm { program } = &plan.engine else {
        unreachable!("engine_of hands a plan only to the engine that it names");
    };
    let mut arguments = vec![OsString::from("run"), OsString::from("--jailed")];
    arguments.extend(plan.network.map(|_| OsString::from("--network")));
    // For whoever looks at the host's processes.
    let disk = plan.overlay.as_ref().unwrap_or(&plan.root_image);
    arguments.extend([OsString::from("--label"), disk.into()]);
    let jail = jail::of_monitor(plan);
    let has_network = plan.network.is_some();
    let spawned = connection::spawn(program, &arguments, &jail, has_network)?;
    Ok(KvmMachine {
        streams: spawned.streams,
        control: Control::new(connection::asynchronous(spawned.control)?),
        messages: spawned.messages,
        exit: None,
        child: spawned.child,
    })
}

/// Returns the machine of a plan, as the monitor knows machines.
fn describe(plan: &BootPlan) -> MachineDescription {
    let mut disks = vec![Disk {
        path: plan.root_image.clone(),
        serial: ROOT_DISK_SERIAL.to_owned(),
        is_read_only: plan.overlay.is_some(),
    }];
    disks.extend(plan.overlay.iter().map(|overlay| Disk {
        path: overlay.clone(),
        serial: OVERLAY_DISK_SERIAL.to_owned(),
        is_read_only: false,
    }));
    disks.extend(
        plan.extra_drives
            .iter()
            .enumerate()
            .map(|(index, drive)| Disk {
                path: drive.clone(),
                serial: format!("smolvm-extra{index}"),
                is_read_only: false,
            }),
    );
    MachineDescription {
        kernel: plan.kernel.clone(),
        initramfs: plan.initramfs.clone(),
        command_line: command_line(plan),
        vcpus: plan.vcpus.get().try_into().unwrap_or(u8::MAX),
        memory_mib: plan.memory.get(),
        disks,
        network: plan.network.map(|network| NetworkInterface {
            mac: network.mac,
            mtu: network.mtu,
        }),
    }
}

/// Returns the kernel's command line (kernel, Documentation/admin-guide/kernel-parameters.txt).
fn command_line(plan: &BootPlan) -> String {
    let mut parameters = vec![
        "console=ttyS0".to_owned(),
        "quiet".to_owned(),
        // Not even the error that there is no PCI bus: each character is two exits. The agent has
        // errors shown again.
        "loglevel=3".to_owned(),
        // A guest that panics ends at once (negative: no delay) and the machine with it.
        "panic=-1".to_owned(),
        "reboot=t".to_owned(),
        // There is no PCI bus and no keyboard controller; looking for them takes time.
        "pci=off".to_owned(),
        "i8042.noaux".to_owned(),
        "i8042.nokbd".to_owned(),
        "cryptomgr.notests".to_owned(),
        // KVM's clock is used; the kernel need not look twice a second whether the processor's is right.
        "tsc=nowatchdog".to_owned(),
        // Nor make room for large pages twice a second: who wants some waits a moment.
        "sysctl.vm.compaction_proactiveness=0".to_owned(),
        // The processor's random numbers seed the guest's: it must not wait for entropy.
        "random.trust_cpu=on".to_owned(),
        // Making and removing the control group of each command waits for RCU; a guest is small
        // enough that hurrying it costs nothing.
        "rcupdate.rcu_expedited=1".to_owned(),
        format!("{HOSTNAME_PARAMETER}={}", plan.hostname),
    ];
    if plan.overlay.is_none() {
        parameters.push(format!("{ROOT_PARAMETER}={ROOT_SHARED}"));
    }
    if !plan.boot_args.is_empty() {
        parameters.push(plan.boot_args.clone());
    }
    parameters.join(" ")
}

/// One process of our monitor.
struct KvmMachine {
    streams: Streams,
    control: Control,
    messages: JoinHandle<Vec<String>>,
    exit: Option<MachineExit>,
    child: Child,
}

impl KvmMachine {
    async fn boot(&mut self, plan: &BootPlan) -> Result<(), BootError> {
        let request = Request::Boot(describe(plan));
        let Err(error) = self.control.ask(&request).await else {
            return Ok(());
        };
        // One that has ended without an answer has said why on its error output, or by its status.
        let mut message = match error.kind() {
            io::ErrorKind::BrokenPipe => describe_end(&self.child.wait().await),
            _ => error.to_string(),
        };
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
        let end = self.control.end().await;
        let messages = (&mut self.messages).await.unwrap_or_default();
        let exit = classify(&status, end, messages);
        self.exit = Some(exit.clone());
        exit
    }
}

fn classify(
    status: &io::Result<ExitStatus>,
    end: Option<MachineEnd>,
    mut messages: Vec<String>,
) -> MachineExit {
    let has_succeeded = status.as_ref().is_ok_and(ExitStatus::success);
    match end {
        Some(MachineEnd::PoweredOff) if has_succeeded => return MachineExit::PoweredOff,
        Some(MachineEnd::Reset) if has_succeeded => {
            tracing::info!(?messages, "the guest has reset itself");
            return MachineExit::Reset;
        }
        Some(MachineEnd::Failed { message }) => {
            messages.push(crate::text::excerpt(&message, control::MAX_MESSAGE_CHARS));
        }
        _ => {}
    }
    MachineExit::VmmEnded {
        status: describe_end(status),
        messages,
    }
}

/// Says how the monitor has ended, for people.
fn describe_end(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) if status.signal() == Some(Signal::SYS.as_raw()) => {
            "its jail ended it, for a system call that it has no use for (SIGSYS)".to_owned()
        }
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

impl Machine for KvmMachine {
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
        async { self.control.stats().await.map(Some) }.boxed()
    }

    fn press_power_button(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.control.ask(&Request::PowerButton).boxed()
    }

    fn pause(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.control.ask(&Request::Pause).boxed()
    }

    fn resume(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.control.ask(&Request::Resume).boxed()
    }

    fn resume_soon(&mut self) {
        self.control.resume_soon();
    }

    fn wait(&mut self) -> BoxFuture<'_, MachineExit> {
        self.wait_for_end().boxed()
    }

    fn kill(&mut self) {
        // Fails only when the process has ended already, which is what is wanted.
        let _ended_already = self.child.start_kill();
    }
}
