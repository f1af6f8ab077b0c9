//! The `smolvm` command.
//!
//! ```text
//!   argv -> args (as typed) -> settings (flags > environment > defaults) -> library types
//!        -> commands/<verb> -> Report or Failure -> output: for people, or one JSON document
//! ```
//!
//! Two hidden commands are not for people: `supervise` owns a running sandbox and `jail` becomes
//! its VMM. They are dispatched before anything else is set up, since every sandbox pays for
//! their memory.
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

use smolvm_sandbox::{JAIL_COMMAND, SUPERVISE_COMMAND};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next();
    let is = |hidden: &str| command.as_deref() == Some(OsStr::new(hidden));
    if is(SUPERVISE_COMMAND) {
        commands::supervise::main(arguments.next())
    } else if is(JAIL_COMMAND) {
        commands::jail::main(arguments.next())
    } else {
        commands::main()
    }
}
