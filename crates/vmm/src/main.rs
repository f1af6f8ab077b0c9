//! The `smolvm-vmm` process. Its command line is for the sandbox library, not for people.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;
use smolvm_jail::{JailError, JailPlan};
use smolvm_vmm::{machine, probe};

const USAGE: &str = "usage: smolvm-vmm probe\n\
    \x20      smolvm-vmm run [--jailed] [--network] [--label TEXT]\n\
    \x20      smolvm-vmm jail [--namespaces]\n\
    \n\
    probe   run a short guest on /dev/kvm and print a JSON report of one line\n\
    run     run one machine for the supervisor that holds descriptors 3 to 5, or 6,\n\
    \x20       in the jail that the standard input describes;\n\
    \x20       the text tells people whose machine it is, and nothing else\n\
    jail    become another VMM in such a jail, or print which namespaces it would have\n";

/// Exit status of a command line that is not understood, as shells use it.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        // Whatever thread is still inside KVM ends with the process.
        [command] if command == "probe" => print_line(&probe::run()),
        [command, options @ ..] if command == "run" && is_known(options) => {
            let is_given = |wanted: &str| options.iter().any(|option| option == wanted);
            if is_given("--jailed")
                && let Err(error) = enter_jail()
            {
                return failure(&error);
            }
            machine::run(is_given("--network"))
        }
        [command] if command == "jail" => match enter_jail() {
            Ok(()) => {
                eprintln!("smolvm-vmm: the plan of the jail names no program");
                ExitCode::FAILURE
            }
            Err(error) => failure(&error),
        },
        [command, option] if command == "jail" && option == "--namespaces" => {
            print_line(&smolvm_jail::try_namespaces())
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
        [option, rest @ ..] if option == "--jailed" || option == "--network" => is_known(rest),
        [label, _, rest @ ..] if label == "--label" => is_known(rest),
        _ => false,
    }
}

/// Enters the jail that the standard input describes, and becomes its program where it has one.
fn enter_jail() -> Result<(), JailError> {
    JailPlan::from_standard_input()?.enter()
}

/// Says why the jail could not be entered.
fn failure(error: &dyn Error) -> ExitCode {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    eprintln!("smolvm-vmm: {message}");
    ExitCode::FAILURE
}

/// Prints an answer as a line of JSON.
fn print_line(answer: &impl Serialize) -> ExitCode {
    let mut line = match serde_json::to_vec(answer) {
        Ok(line) => line,
        Err(error) => {
            eprintln!("smolvm-vmm: failed to write the answer: {error}");
            return ExitCode::FAILURE;
        }
    };
    line.push(b'\n');
    match std::io::stdout().write_all(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smolvm-vmm: failed to write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}
