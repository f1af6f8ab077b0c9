//! The `smolvm` command.
//!
//! ```text
//!   argv -> args (as typed) -> settings (flags > environment > defaults) -> library types
//!        -> commands/<verb> -> Report or Failure -> output: for people, or one JSON document
//! ```
//!
//! A hidden command is not for people: `supervise` owns a running sandbox. It is dispatched before
//! anything else is set up, since every sandbox pays for its memory.
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

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() == Some(OsStr::new(SUPERVISE_COMMAND)) {
        commands::supervise::main(arguments.next())
    } else {
        commands::main()
    }
}
