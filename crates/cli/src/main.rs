//! The `smolvm` command.
//!
//! ```text
//!   argv -> args (as typed) -> settings (flags > environment > defaults) -> library types
//!        -> commands/<verb> -> Report or Failure -> output: for people, or one JSON document
//! ```
//!
//! Two hidden commands are not for people: `supervise` owns a running sandbox, and `record` makes a
//! template. They are dispatched before anything else is set up, since every sandbox pays for the
//! memory of the first.
//!
//! Decisions live in `smolvm-sandbox`; here is only what a person at a terminal needs.

#![deny(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod activity;
mod args;
mod commands;
mod context;
mod failure;
mod hints;
mod interrupts;
mod output;
mod session;
mod settings;
mod table;
mod terminal;
mod text;
mod values;

use std::ffi::OsStr;
use std::process::ExitCode;

use smolvm_sandbox::SUPERVISE_COMMAND;
use smolvm_sandbox::template::RECORD_COMMAND;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next();
    let is = |hidden: &str| command.as_deref() == Some(OsStr::new(hidden));
    if is(SUPERVISE_COMMAND) {
        commands::supervise::main(arguments.next())
    } else if is(RECORD_COMMAND) {
        commands::record::main()
    } else {
        commands::main()
    }
}
