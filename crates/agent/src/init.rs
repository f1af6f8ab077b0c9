//! PID 1, from the kernel's handing over to the power switch.
//!
//! ```text
//!   boot --> serve sessions, one after the other --> shutdown --> off
//!     \          \-- first hello answered: load the late modules, run the start hook
//!      \--> failed: one line on the console ---------------------> off
//! ```

use std::fs;
use std::io;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit};
use smolvm_protocol::LATE_MODULE_LIST;
use smolvm_protocol::message::BootTimes;

use crate::boot::clock::since_kernel_start_ms;
use crate::boot::disks::Disks;
use crate::boot::modules::{self, HeldModules, NetworkDriver};
use crate::boot::mounts::{self, CGROUP_MOUNT};
use crate::boot::root::{self, Root};
use crate::boot::uevents::Uevents;
use crate::boot::{BootError, agent_port, console, entropy, hostname, loopback, power};
use crate::port::AgentPort;
use crate::session::{Environment, serve};
use crate::{memory_pressure, power_button, shutdown, start_hook};

/// Files the agent may have open: three for each of 256 commands, and as many again for each
/// one whose daemons still write.
const AGENT_OPEN_FILES: u64 = 65_536;

/// Runs the agent as PID 1 and switches the machine off at the end. Returns only to a caller
/// that is not PID 1, which it leaves alone.
#[must_use]
pub fn run() -> ExitCode {
    if !rustix::process::getpid().is_init() {
        console_refusal();
        return ExitCode::from(2);
    }
    console::report_panics();
    match catch_unwind(boot_and_serve) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => console::report_failure(&error),
        // The hook has reported it.
        Err(_panic) => {}
    }
    power::switch_off()
}

/// A guest that is ready to serve.
struct Guest {
    root: Root,
    port: std::os::fd::OwnedFd,
    port_path: PathBuf,
    late_modules: HeldModules,
    network_driver: Option<NetworkDriver>,
    socket_modules: Option<HeldModules>,
    times: BootTimes,
}

fn boot_and_serve() -> Result<(), BootError> {
    let guest = boot()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| runtime_error("creation", source))?;
    runtime
        .block_on(serve_until_shutdown(guest))
        .map_err(|source| runtime_error("service", source))
}

/// The boot, step by step.
fn boot() -> Result<Guest, BootError> {
    let mut times = BootTimes {
        agent_started_ms: since_kernel_start_ms(),
        ..BootTimes::default()
    };
    mounts::mount_early()?;
    protect_agent();
    power::own_ctrl_alt_del();
    let uevents = Uevents::listen()?;
    modules::load_boot_modules();
    times.modules_loaded_ms = since_kernel_start_ms();
    let late_modules = HeldModules::open(LATE_MODULE_LIST);
    let network_driver = NetworkDriver::load();
    let socket_modules = modules::open_socket_modules();
    let disks = Disks::find(&uevents, root::is_shared(&command_line()))?;
    let root = Root::switch_to(&disks)?;
    mounts::mount_late()?;
    hostname::set(&command_line(), root.is_new);
    loopback::switch_on();
    times.root_ready_ms = since_kernel_start_ms();
    entropy::report_if_missing();
    let (port, port_path) = agent_port::open(&uevents)?;
    times.port_opened_ms = since_kernel_start_ms();
    Ok(Guest {
        root,
        port,
        port_path,
        late_modules,
        network_driver,
        socket_modules,
        times,
    })
}

async fn serve_until_shutdown(guest: Guest) -> io::Result<()> {
    let cgroup_mount = Path::new(CGROUP_MOUNT);
    let environment = Environment::of_init(
        guest.times,
        cgroup_mount,
        guest.network_driver,
        guest.socket_modules,
    );
    let port = AgentPort::new(guest.port, guest.port_path);
    let work = async {
        tokio::try_join!(
            environment.run(),
            serve_sessions(port, &environment),
            load_late_modules(guest.late_modules, &environment),
            run_start_hook(&environment),
            memory_pressure::end_standstills(),
        )
    };
    let end = async {
        tokio::select! {
            () = environment.shutdown_requested() => {}
            result = shutdown::signalled() => result?,
        }
        environment.request_shutdown();
        shutdown::run(&environment, guest.root.overlay_disk).await;
        Ok(())
    };
    // The session goes on during the shutdown, so that commands can report their ends.
    tokio::select! {
        result = work => result.map(|_| ()),
        result = end => result,
    }
}

/// Serves whoever opens the port, one session after the other. The port is closed in between, by which
/// the host sees that nothing of the session is left.
async fn serve_sessions(mut port: AgentPort, environment: &Arc<Environment>) -> io::Result<()> {
    loop {
        let stream = port.accept().await?;
        // However a session ends, the next host starts afresh.
        let _ = serve(stream, Arc::clone(environment)).await;
        port = port.reopened()?;
    }
}

/// Loads what the first answer did not have to wait for, then watches the power button that
/// comes with it.
async fn load_late_modules(modules: HeldModules, environment: &Arc<Environment>) -> io::Result<()> {
    environment.hello_answered().await;
    console::show_errors();
    tokio::task::spawn_blocking(move || modules.load())
        .await
        .map_err(io::Error::other)?;
    environment.note_late_work();
    power_button::pressed().await;
    environment.request_shutdown();
    Ok(())
}

/// Runs what the image wants to have started, once the first answer did not have to wait for it.
async fn run_start_hook(environment: &Arc<Environment>) -> io::Result<()> {
    environment.hello_answered().await;
    start_hook::run(environment).await;
    environment.note_late_work();
    Ok(())
}

/// Keeps the out-of-memory killer away from PID 1, and its table of files large enough.
fn protect_agent() {
    // An unprotected agent still serves.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let limit = Rlimit {
        current: Some(AGENT_OPEN_FILES),
        maximum: Some(AGENT_OPEN_FILES),
    };
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

fn command_line() -> String {
    fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

fn console_refusal() {
    eprintln!("smolvm-agent: failed to start: not PID 1 of a guest");
}

fn runtime_error(step: &'static str, source: io::Error) -> BootError {
    BootError::Runtime { step, source }
}
