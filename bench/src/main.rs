//! Measures what SPECIFICATION.md promises: `make bench`.
//!
//! Every figure is a median with its spread, taken in one run together with the baseline it is
//! compared with, in turns, so that a busy machine slows both alike. Ratios are the result;
//! absolute times say as much about the machine.
//!
//! Modules: `baseline` is a plain QEMU; `subject` is SmolVM; `network` compares its gateway with
//! others; `engines` compares our own monitor with QEMU; `initramfs`, `statistics` and `report` do what they say; `calls` measures one thing for
//! `bench/python`, which measures the Python package.

mod baseline;
mod calls;
mod engines;
mod initramfs;
mod network;
mod report;
mod statistics;
mod subject;

use std::error::Error;
use std::process::ExitCode;

use baseline::Baseline;
use calls::Calls;
use report::Report;
use smolvm_sandbox::EngineChoice;
use statistics::Samples;
use subject::Subject;
use tokio::runtime::Runtime;

/// Boots of each kind. Each takes seconds under software emulation.
const BOOTS: usize = 10;

/// Warm commands.
const EXECS: usize = 200;

/// Programs started in the guest by one shell, to find what one start costs there.
const GUEST_STARTS: u32 = 200;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            report::print_error(&*error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        None => {
            let report = measure(&runtime)?;
            report.print();
            Ok(report.exit_code())
        }
        Some((verb, words)) if verb == "calls" => {
            let durations = Calls::parse(words)?.measure(&runtime)?;
            report::print_microseconds(&durations);
            Ok(ExitCode::SUCCESS)
        }
        Some((verb, [])) if verb == "boots" => {
            let (subject, baseline, mut report) = prepare(&runtime)?;
            measure_boots(&subject, &baseline, &mut report)?;
            report.print();
            Ok(report.exit_code())
        }
        Some((verb, [])) if verb == "network" => {
            let (subject, baseline, mut report) = prepare(&runtime)?;
            network::measure(&subject, &baseline, &mut report)?;
            report.print();
            Ok(report.exit_code())
        }
        Some((verb, [])) if verb == "engines" => {
            let subject = Subject::prepare(&runtime)?;
            let mut report = Report::new("kvm beside qemu (KVM)");
            engines::measure(&subject, &runtime, &mut report)?;
            report.print();
            Ok(report.exit_code())
        }
        Some((verb, words)) if verb == "gateway" => {
            network::gateway::run(words)?;
            Ok(ExitCode::SUCCESS)
        }
        Some((verb, _)) => {
            let known = "there are 'boots', 'calls', 'engines' and 'network'";
            Err(format!("there is no '{verb}'; {known}").into())
        }
    }
}

fn prepare(runtime: &Runtime) -> Result<(Subject, Baseline, Report), Box<dyn Error>> {
    let subject = Subject::prepare(runtime)?;
    let baseline = Baseline::prepare(&subject)?;
    let report = Report::new(subject.engine());
    Ok((subject, baseline, report))
}

fn measure(runtime: &Runtime) -> Result<Report, Box<dyn Error>> {
    let (subject, baseline, mut report) = prepare(runtime)?;
    measure_boots(&subject, &baseline, &mut report)?;
    measure_warm(&subject, runtime, &mut report)?;
    network::measure(&subject, &baseline, &mut report)?;
    Ok(report)
}

fn measure_boots(
    subject: &Subject,
    baseline: &Baseline,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let (mut packaged, mut tuned) = (Samples::default(), Samples::default());
    let (mut cold, mut warm) = (Samples::default(), Samples::default());
    report::progress("a template");
    let first = subject.warm_run(EngineChoice::Qemu)?;
    for round in 1..=BOOTS {
        report::progress(&format!("boots: round {round} of {BOOTS}"));
        packaged.push(baseline.boot(baseline::Kernel::AsPackaged)?);
        cold.push(subject.cold_run(EngineChoice::Qemu)?);
        warm.push(subject.warm_run(EngineChoice::Qemu)?);
        tuned.push(baseline.boot(baseline::Kernel::AsSmolvmBootsIt)?);
    }
    report.row("plain QEMU, packaged kernel -> first line", &packaged);
    report.row(
        "plain QEMU, SmolVM's kernel file and command line -> first line",
        &tuned,
    );
    report.row("smolvm run --cold: create -> first command's result", &cold);
    report.row("smolvm run: create -> first command's result", &warm);
    report.value(
        "the same where a template has to be made first",
        first.as_secs_f64(),
        "s",
    );
    report.promise(
        "cold boot / plain QEMU",
        cold.median() / packaged.median(),
        1.25,
    );
    report.ratio(
        "cold boot / QEMU with SmolVM's kernel",
        cold.median() / tuned.median(),
    );
    report.promise(
        "warm start / cold boot",
        warm.median() / cold.median(),
        0.25,
    );
    Ok(())
}

fn measure_warm(
    subject: &Subject,
    runtime: &Runtime,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    report::progress("warm commands");
    let sandbox = runtime.block_on(subject.start())?;
    let (mut library, mut command) = (Samples::default(), Samples::default());
    for _ in 0..EXECS {
        library.push(runtime.block_on(subject::exec_true(&sandbox))?);
    }
    for _ in 0..BOOTS {
        command.push(subject.exec_command(sandbox.id())?);
    }
    let guest_start = runtime.block_on(subject::guest_start(&sandbox, GUEST_STARTS))?;
    let resident = runtime.block_on(subject::supervisor_resident_mib(&sandbox))?;
    runtime.block_on(sandbox.delete())?;

    let mut deletes = Samples::default();
    for round in 1..=BOOTS {
        report::progress(&format!("deletes: round {round} of {BOOTS}"));
        deletes.push(runtime.block_on(subject.delete())?);
    }
    report.row("warm exec of `true`, library", &library);
    report.row("warm exec of `true`, smolvm exec", &command);
    report.value(
        "fork and exec of `true` inside the guest",
        guest_start.as_secs_f64() * 1e3,
        "ms",
    );
    report.ratio(
        "warm exec / fork and exec in the guest",
        library.median() / guest_start.as_secs_f64(),
    );
    report.row("delete -> everything gone", &deletes);
    report.promise("delete, in ms", deletes.median() * 1e3, 100.0);
    report.promise("supervisor's resident memory, in MiB", resident, 12.0);
    Ok(())
}
