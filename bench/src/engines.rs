//! The engine `kvm` beside QEMU on the same KVM: the same kernel, initramfs, image and disk, in
//! turns.
//!
//! Modules: `figure` is what both are asked to do; `use_of_host` what they take of the host;
//! `overwriting` keeps one from paying for another.

mod figure;
mod overwriting;
mod use_of_host;

use std::error::Error;
use std::time::{Duration, Instant};

use smolvm_sandbox::{EngineChoice, Sandbox};
use tokio::runtime::Runtime;

use crate::network::process::cpu_seconds;
use crate::network::server::Servers;
use crate::report::{self, Report};
use crate::statistics::Samples;
use crate::subject::{self, Subject};
use figure::{Figure, FileServer};
use overwriting::overwrite_free_memory;

/// Boots of each engine.
const BOOTS: usize = 10;

/// Measurements of each figure and engine.
const ROUNDS: usize = 5;

/// How long a sandbox is left alone, to see what it takes then.
const IDLE: Duration = Duration::from_secs(20);

/// Which are compared: ours first.
const ENGINES: [EngineChoice; 2] = [EngineChoice::Kvm, EngineChoice::Qemu];

/// One value for each of [`ENGINES`].
type Each<T> = [T; ENGINES.len()];

/// Measures all that the report is to say about the engines.
pub(crate) fn measure(
    subject: &Subject,
    runtime: &Runtime,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    if !subject.is_kvm() {
        return Err("KVM is not usable on this host: see `cargo xtask bench-kvm`".into());
    }
    measure_boots(subject, report)?;
    let servers = Servers::start()?;
    let [ours, other] = ENGINES.map(|engine| {
        report::progress(&format!("a sandbox of the engine {}", engine.as_str()));
        runtime.block_on(subject.start_on(engine, servers.http))
    });
    let sandboxes = [ours?, other?];
    let measured = runtime.block_on(measure_sandboxes(subject, servers, &sandboxes, report));
    for sandbox in sandboxes {
        runtime.block_on(sandbox.delete())?;
    }
    measured
}

fn measure_boots(subject: &Subject, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let mut boots: Each<Samples> = Default::default();
    for round in 1..=BOOTS {
        report::progress(&format!("boots: round {round} of {BOOTS}"));
        for (engine, samples) in ENGINES.into_iter().zip(&mut boots) {
            overwrite_free_memory();
            samples.push(subject.cold_run(engine)?);
        }
    }
    for (engine, samples) in ENGINES.into_iter().zip(&boots) {
        let name = format!(
            "engine {}: create -> first command's result",
            engine.as_str()
        );
        report.row(&name, samples);
    }
    let [ours, other] = boots.map(|samples| samples.median());
    report.ratio("create -> first result, kvm / QEMU", ours / other);
    Ok(())
}

async fn measure_sandboxes(
    subject: &Subject,
    servers: Servers,
    sandboxes: &Each<Sandbox>,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    for (engine, sandbox) in ENGINES.into_iter().zip(sandboxes) {
        subject::exec_true(sandbox).await?;
        tell_exits(engine, sandbox, report).await?;
    }
    for (engine, sandbox) in ENGINES.into_iter().zip(sandboxes) {
        tell_memory(engine, sandbox, report).await?;
    }
    tell_idle(sandboxes, report).await?;
    measure_figures(subject, servers, sandboxes, report).await
}

/// Tells how often the guest's processors have left the guest until the first command was done.
async fn tell_exits(
    engine: EngineChoice,
    sandbox: &Sandbox,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let vmm = subject::vmm_pid(sandbox).await?;
    let Some(counters) = use_of_host::exits(vmm)? else {
        report.note("exits are not counted: KVM's counters are below /sys/kernel/debug, for root");
        return Ok(());
    };
    for (name, count) in counters {
        let name = format!(
            "engine {}: {name} until the first command's result",
            engine.as_str()
        );
        report.count(&name, count);
    }
    Ok(())
}

async fn tell_memory(
    engine: EngineChoice,
    sandbox: &Sandbox,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let guest = sandbox.info()?.spec.memory.get();
    let vmm = use_of_host::memory(subject::vmm_pid(sandbox).await?, guest)?;
    let supervisor = subject::supervisor_resident_mib(sandbox).await?;
    let name = format!(
        "engine {}: guest's memory that is resident",
        engine.as_str()
    );
    report.value(&name, vmm.guest_mib, "MiB");
    let own = format!(
        "engine {}: VMM's memory beside the guest's, in MiB",
        engine.as_str()
    );
    let both = format!(
        "engine {}: the same and the supervisor's, in MiB",
        engine.as_str()
    );
    if engine == EngineChoice::Kvm {
        report.promise(&own, vmm.own_mib, 5.0);
        report.promise(&both, vmm.own_mib + supervisor, 16.0);
    } else {
        report.value(&own, vmm.own_mib, "MiB");
        report.value(&both, vmm.own_mib + supervisor, "MiB");
    }
    Ok(())
}

/// Tells how much of a processor VMM and supervisor take while nobody asks anything of them.
async fn tell_idle(sandboxes: &Each<Sandbox>, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report::progress("sandboxes that do nothing");
    let before = busy_seconds(sandboxes).await?;
    let begun = Instant::now();
    tokio::time::sleep(IDLE).await;
    let after = busy_seconds(sandboxes).await?;
    let elapsed = begun.elapsed().as_secs_f64();
    for (index, engine) in ENGINES.into_iter().enumerate() {
        let percent = (after[index] - before[index]) / elapsed * 100.0;
        let name = format!(
            "engine {}: an idle sandbox, in percent of a processor",
            engine.as_str()
        );
        report.value(&name, percent, "%");
    }
    Ok(())
}

async fn busy_seconds(sandboxes: &Each<Sandbox>) -> Result<Each<f64>, Box<dyn Error>> {
    let mut busy = Each::default();
    for (sandbox, busy) in sandboxes.iter().zip(&mut busy) {
        let status = sandbox.status().await?;
        *busy = cpu_seconds(status.supervisor_pid)?;
        if let Some(vmm) = status.vmm_pid {
            *busy += cpu_seconds(vmm)?;
        }
    }
    Ok(busy)
}

async fn measure_figures(
    subject: &Subject,
    servers: Servers,
    sandboxes: &Each<Sandbox>,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    for sandbox in sandboxes {
        figure::prepare(sandbox, &subject.bench_guest()).await?;
    }
    let server = FileServer::find(&sandboxes[0], servers).await?;
    let mut measured: Vec<Each<Samples>> = Vec::new();
    measured.resize_with(Figure::ALL.len(), Each::default);
    for round in 1..=ROUNDS {
        report::progress(&format!("what guests do: round {round} of {ROUNDS}"));
        for (figure, samples) in Figure::ALL.into_iter().zip(&mut measured) {
            for (sandbox, samples) in sandboxes.iter().zip(samples) {
                samples.push(figure.measure(sandbox, server).await?);
            }
        }
    }
    for (figure, samples) in Figure::ALL.into_iter().zip(&measured) {
        for (engine, samples) in ENGINES.into_iter().zip(samples) {
            let name = format!("engine {}: {}", engine.as_str(), figure.name());
            report.rate(&name, samples, figure.unit());
        }
        let [ours, other] = samples.each_ref().map(Samples::median);
        let name = format!("time of {}, kvm / QEMU", figure.name());
        match figure.is_promised() {
            true => report.promise(&name, ours / other, 1.0),
            false => report.ratio(&name, ours / other),
        }
    }
    Ok(())
}
