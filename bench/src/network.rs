//! The network: SmolVM's gateway beside QEMU's own network (libslirp) and passt, in the same guest
//! and in turns.
//!
//! ```text
//!   guest --+-- device 0 --> gateway, a process ----------------+--> servers on the
//!           +-- device 1 --> gateway with 1,000 rules, another -+    host's loopback:
//!           +-- device 2 --> libslirp, inside QEMU -------------+    HTTP and DNS
//!           +-- device 3 --> passt, a process ------------------+
//! ```
//!
//! Modules: `path` is what tells the four apart; `machine` the guest; `gateway` the process with
//! SmolVM's gateway; `server` the servers; `process` what processes use; `figures` what comes of it.

pub(crate) mod gateway;

mod figures;
mod machine;
mod path;
mod process;
mod server;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use smolvm_bench::workload::Workload;

use crate::baseline::Baseline;
use crate::report::{self, Report};
use crate::subject::Subject;
use figures::{Figure, Figures};
use machine::Machine;
use path::Path;
use server::Servers;

/// Rounds that count, after one that does not.
const ROUNDS: usize = 9;

/// Connections that are held to find what each takes.
const HELD: u32 = 400;

/// Bytes that a connection sends and receives before it is held, where it is to have been used:
/// more than the gateway's buffers.
const HELD_BYTES: u64 = 128 * 1024;

/// Measures all that the report is to say about the network.
pub(crate) fn measure(
    subject: &Subject,
    baseline: &Baseline,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    report::progress("the network: booting its guest");
    let servers = Servers::start()?;
    let mut machine = Machine::boot(subject, baseline, servers)?;
    let idle = gateway_memory(&machine)?;
    let mut figures = Figures::default();
    for round in 0..=ROUNDS {
        report::progress(&format!("the network: round {round} of {ROUNDS}"));
        for figure in Figure::ALL {
            for place in 0..Path::ALL.len() {
                // Who comes first in one round comes last in the next.
                let path = Path::ALL[(place + round) % Path::ALL.len()];
                let used = measure_once(&mut machine, figure, path, servers)?;
                if round > 0 {
                    figures.push(figure, path, used);
                }
            }
        }
    }
    figures.tell(report);
    report.promise("idle gateway's memory, in MiB", idle / 1024.0, 2.0);
    let to = SocketAddr::from((Path::Gateway.host(), servers.http));
    let unused = held_connection(&mut machine, to, 0)?;
    let used = held_connection(&mut machine, to, HELD_BYTES)?;
    report.promise(
        "an idle connection's memory in the gateway, in KiB",
        unused,
        64.0,
    );
    report.promise(
        "a used connection's memory in the gateway, in KiB",
        used,
        64.0,
    );
    Ok(())
}

/// What one measurement of one figure has taken.
#[derive(Clone, Copy, Debug)]
struct Used {
    time: Duration,
    qemu_cpu_seconds: f64,
    back_end_cpu_seconds: f64,
}

fn measure_once(
    machine: &mut Machine,
    figure: Figure,
    path: Path,
    servers: Servers,
) -> Result<Used, Box<dyn Error>> {
    let cpu_seconds = |machine: &Machine| -> Result<(f64, f64), Box<dyn Error>> {
        let back_end = machine.back_end(path).map(process::Process::cpu_seconds);
        Ok((
            machine.qemu().cpu_seconds()?,
            back_end.transpose()?.unwrap_or(0.0),
        ))
    };
    let before = cpu_seconds(machine)?;
    let time = machine.run(figure.workload(path, servers))?;
    let after = cpu_seconds(machine)?;
    Ok(Used {
        time,
        qemu_cpu_seconds: after.0 - before.0,
        back_end_cpu_seconds: after.1 - before.1,
    })
}

fn gateway_memory(machine: &Machine) -> Result<f64, Box<dyn Error>> {
    machine
        .back_end(Path::Gateway)
        .ok_or("the gateway has no process")?
        .memory_kib()
}

/// Returns how much a connection adds to the gateway's memory while it is open, in KiB.
fn held_connection(
    machine: &mut Machine,
    to: SocketAddr,
    bytes: u64,
) -> Result<f64, Box<dyn Error>> {
    report::progress("the network: connections that are held");
    let before = gateway_memory(machine)?;
    machine.run(Workload::Hold {
        to,
        count: HELD,
        bytes,
    })?;
    let after = gateway_memory(machine)?;
    machine.run(Workload::Release)?;
    Ok((after - before) / f64::from(HELD))
}
