//! `info`: all that is known of a sandbox.

use serde_json::json;
use smolvm_sandbox::control::{Flow, MachineStats};
use smolvm_sandbox::{Lifetime, NetworkName, NetworkPolicy, Networks, SandboxId, SandboxState};

use crate::context::{Context, colour_of, elapsed_since};
use crate::failure::Failure;
use crate::output::Report;
use crate::{table, text, values};

/// `info` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,
}

/// Shows the sandbox.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let sandbox = context.sandbox(&args.name)?;
    let info = sandbox.info()?;
    let machine = match info.state {
        SandboxState::Running => sandbox.status().await.ok(),
        _ => None,
    };
    let mut vm = context.vm_json(&info).await;
    vm["directory"] = json!(info.directory.to_string_lossy());
    vm["machine"] = json!(machine);
    vm["network"] = json!(info.spec.network);
    vm["networks"] = json!(info.spec.networks);
    vm["http_rules"] = json!(info.spec.http_rules);
    let secrets = info.spec.secrets.iter();
    vm["secrets"] = secrets
        .map(|secret| json!({"name": secret.name, "hosts": secret.hosts}))
        .collect();
    let state = context.paint(colour_of(info.state), info.state.as_str());
    let since = text::age(elapsed_since(info.since_unix_ms));
    let mut pairs = vec![
        ("name", info.spec.id.to_string()),
        ("status", format!("{state}, since {since}")),
    ];
    pairs.extend(info.reason.map(|reason| ("reason", reason)));
    let lifetime = match info.spec.lifetime {
        Lifetime::Persistent => "until it is deleted",
        Lifetime::Leased => "as long as the process that made it",
    };
    let disk_size = text::size(u64::from(info.spec.disk.get()) << 20);
    pairs.extend([
        ("image", info.spec.image),
        ("engine", info.engine.unwrap_or_else(|| "-".to_owned())),
        ("cpus", info.spec.vcpus.get().to_string()),
        (
            "memory",
            text::size(u64::from(info.spec.memory.get()) << 20),
        ),
        ("disk", disk_size),
        ("on host", text::size(info.disk_used_bytes)),
        ("network", network(&info.spec.network)),
    ]);
    pairs.extend(networks(&info.spec.networks).map(|names| ("networks", names)));
    pairs.extend([
        ("lives", lifetime.to_owned()),
        ("created", text::age(elapsed_since(info.created_unix_ms))),
    ]);
    if let Some(machine) = machine {
        let pid = |pid: Option<u32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        pairs.push(("kernel", machine.kernel_release));
        pairs.push(("supervisor", pid(Some(machine.supervisor_pid))));
        pairs.push(("vmm", pid(machine.vmm_pid)));
        let resident = machine.resident_bytes;
        pairs.extend(resident.map(|bytes| ("resident", text::size(bytes))));
        pairs.extend(machine.stats.iter().flat_map(work));
    }
    pairs.push(("files", info.directory.display().to_string()));
    Ok(Report::new(json!({"vm": vm}), table::pairs(&pairs)))
}

/// Returns what a machine has done so far, in a few words.
fn work(stats: &MachineStats) -> [(&'static str, String); 3] {
    let flow =
        |flow: Flow, unit: &str| format!("{} in {} {unit}", text::size(flow.bytes), flow.count);
    let (disks, network) = (stats.disks, stats.network);
    [
        (
            "exits",
            format!(
                "{} for ports, {} for registers, {} others",
                stats.port_exits, stats.mmio_exits, stats.other_exits
            ),
        ),
        (
            "disk traffic",
            format!(
                "read {}, wrote {}",
                flow(disks.to_guest, "requests"),
                flow(disks.from_guest, "requests")
            ),
        ),
        (
            "frames",
            format!(
                "got {}, sent {}",
                flow(network.to_guest, "frames"),
                flow(network.from_guest, "frames")
            ),
        ),
    ]
}

/// Returns the private networks of a sandbox, if it is in any.
fn networks(networks: &Networks) -> Option<String> {
    let names = networks.as_slice().iter().map(NetworkName::as_str);
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Returns what a sandbox may reach, in a few words.
fn network(policy: &NetworkPolicy) -> String {
    match policy.rules().len() {
        0 => policy.mode().to_string(),
        1 => format!("{}, 1 rule", policy.mode()),
        rules => format!("{}, {rules} rules", policy.mode()),
    }
}
