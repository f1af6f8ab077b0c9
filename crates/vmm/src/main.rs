//! The `smolvm-vmm` process. Its command line is for the sandbox library, not for people.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use smolvm_vmm::{machine, probe};

const USAGE: &str = "usage: smolvm-vmm probe\n\
    \x20      smolvm-vmm run [--network] [--label TEXT]\n\
    \n\
    probe   run a short guest on /dev/kvm and print a JSON report of one line\n\
    run     run one machine for the supervisor that holds descriptors 3 to 5, or 6;\n\
    \x20       the text tells people whose machine it is, and nothing else\n";

/// Exit status of a command line that is not understood, as shells use it.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [command] if command == "probe" => print_report(),
        [command, options @ ..] if command == "run" && is_known(options) => {
            machine::run(options.iter().any(|option| option == "--network"))
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Tells whether the options of `run` are such.
fn is_known(options: &[OsString]) -> bool {
    match options {
        [] => true,
        [network, rest @ ..] if network == "--network" => is_known(rest),
        [label, _, rest @ ..] if label == "--label" => is_known(rest),
        _ => false,
    }
}

/// Prints the report and ends; whatever thread is still inside KVM ends with the process.
fn print_report() -> ExitCode {
    let report = probe::run();
    let mut line = match serde_json::to_vec(&report) {
        Ok(line) => line,
        Err(error) => {
            eprintln!("smolvm-vmm: failed to write the report: {error}");
            return ExitCode::FAILURE;
        }
    };
    line.push(b'\n');
    match std::io::stdout().write_all(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smolvm-vmm: failed to write the report: {error}");
            ExitCode::FAILURE
        }
    }
}
