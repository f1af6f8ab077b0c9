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
pub(crate) mod process;
pub(crate) mod server;

mod figures;
mod machine;
mod path;

use std::error::Error;
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
const ROUNDS: u32 = 9;

/// Connections that are open at once to find what each takes; a sandbox may have 1,024.
const HELD: u32 = 1000;

/// Bytes that each of them sends and receives: as many as the gateway's largest buffers have.
const HELD_BYTES: u64 = 128 * 1024;

/// Measures all that the report is to say about the network.
pub(crate) fn measure(
    subject: &Subject,
    baseline: &Baseline,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    report::progress("the network: booting its guest");
    process::raise_descriptor_limit()?;
    let servers = Servers::start()?;
    let mut machine = Machine::boot(subject, baseline, servers)?;
    measure_memory(&mut machine, servers, report)?;
    let mut figures = Figures::default();
    for round in 0..=ROUNDS {
        report::progress(&format!("the network: round {round} of {ROUNDS}"));
        for figure in Figure::ALL {
            for path in order(round) {
                let used = measure_once(&mut machine, figure, path, servers)?;
                if round > 0 {
                    figures.push(figure, path, used);
                }
            }
        }
    }
    figures.tell(report);
    Ok(())
}

/// Returns the paths in an order in which none is always first, or always after the same other.
fn order(round: u32) -> [Path; Path::ALL.len()] {
    let mut paths = Path::ALL;
    if round % 4 >= 2 {
        paths.rotate_left(2);
    }
    if round % 2 == 1 {
        paths.reverse();
    }
    paths
}

/// Measures what the gateway keeps in memory, which has to come first: what was used once stays
/// with its process.
fn measure_memory(
    machine: &mut Machine,
    servers: Servers,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    report::progress("the network: connections that are held");
    let idle = gateway_memory(machine)?;
    report.promise("idle gateway's memory, in MiB", idle / 1024.0, 2.0);
    machine.run(&Workload::Hold {
        to: (Path::Gateway.host(), servers.http).into(),
        count: HELD,
        bytes: HELD_BYTES,
    })?;
    let held = gateway_memory(machine)?;
    machine.run(&Workload::Release)?;
    report.promise(
        "gateway's memory for each of 1,000 connections, in KiB",
        (held - idle) / f64::from(HELD),
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
    let time = machine.run(&figure.workload(path, servers))?;
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
