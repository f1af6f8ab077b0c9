//! The start hook: a program that an image wants to have run in every boot of its guests, such as
//! one that starts an SSH server.
//!
//! It runs as root like any other command, in a cgroup of its own; what it starts goes on after
//! it. However it ends, the guest goes on.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use serde_bytes::ByteBuf;
use smolvm_protocol::message::{Command, Exec, Limits, Refusal};

use crate::boot::console;
use crate::command::plan::CommandPlan;
use crate::command::start::{RunningCommand, start_on};
use crate::command::users::AccountFiles;
use crate::refusal;
use crate::session::Environment;

/// The program.
const PROGRAM: &str = "/etc/smolvm/start";

/// Where its output goes.
const LOG: &str = "/var/log/smolvm-start.log";

/// Runs the start hook to its end, if the guest has one.
pub(crate) async fn run(environment: &Arc<Environment>) {
    if !is_executable(Path::new(PROGRAM)) {
        return;
    }
    let environment = Arc::clone(environment);
    let started = tokio::task::spawn_blocking(move || start(&environment)).await;
    let mut running = match started {
        Ok(Ok(running)) => running,
        Ok(Err(refusal)) => {
            console::report(&format!("start hook not run: {}", refusal.message));
            return;
        }
        // The panic hook has reported it.
        Err(_panic) => return,
    };
    let status = (&mut running.child.status).await;
    if !status.is_ok_and(|status| status.exit_status() == Some(0)) {
        console::report(&format!(
            "start hook {PROGRAM} failed; its output is in {LOG}"
        ));
    }
    running.leave_daemons();
}

fn start(environment: &Environment) -> Result<RunningCommand, Refusal> {
    let exec = Exec {
        command: Command::Arguments(vec![ByteBuf::from(PROGRAM)]),
        environment: Vec::new(),
        working_directory: Some(ByteBuf::from("/")),
        user: None,
        stdin: false,
        terminal: None,
        timeout_ms: None,
        limits: Limits::default(),
    };
    let plan = CommandPlan::resolve(&exec, &AccountFiles::read(), environment.variables())?;
    let stdio = descriptors().map_err(|error| refusal::about("descriptors", &error))?;
    start_on(&exec, None, plan, stdio, environment)
}

/// Returns no input, and the log for both outputs; where that cannot be written, no output.
fn descriptors() -> io::Result<[OwnedFd; 3]> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    let log = fs::create_dir_all("/var/log").and_then(|()| {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            // Begun anew in every boot; not waiting, should it be a FIFO.
            .custom_flags((OFlags::TRUNC | OFlags::NONBLOCK).bits().cast_signed())
            .open(LOG)
    });
    let output = match log {
        Ok(log) => log,
        Err(_) => null.try_clone()?,
    };
    let error_output = output.try_clone()?;
    Ok([null.into(), output.into(), error_output.into()])
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
