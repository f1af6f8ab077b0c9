//! Commands on a terminal: raw mode while they run, the old mode whatever ends them.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::home::{Home, code_of, signal, wait_for};

/// A terminal, and the far end of it where a person would sit.
struct Terminal {
    person: File,
    terminal: File,
}

impl Terminal {
    fn open() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&person).expect("granted");
        unlockpt(&person).expect("unlocked");
        let name = ptsname(&person, Vec::new()).expect("its name");
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .open(std::ffi::OsStr::from_bytes(name.as_bytes()))
            .expect("its near end");
        Self {
            person: File::from(person),
            terminal,
        }
    }

    fn near_end(&self) -> Stdio {
        Stdio::from(OwnedFd::from(self.terminal.try_clone().expect("a copy")))
    }

    /// Starts `smolvm run -it cat` on this terminal; returns it once `cat` has answered.
    fn start_cat(&self, home: &Home) -> Child {
        let child = home
            .command(&["run", "-it", "--", "cat"])
            .stdin(self.near_end())
            .stdout(self.near_end())
            .spawn()
            .expect("smolvm starts");
        wait_for("raw mode", || (!self.has_echo()).then_some(()));
        (&self.person).write_all(b"hello\r").expect("typed");
        let mut line = Vec::new();
        BufReader::with_capacity(1, &self.person)
            .read_until(b'\r', &mut line)
            .expect("shown");
        assert_eq!(line, b"hello\r");
        child
    }

    fn has_echo(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("its modes").local_modes;
        modes.contains(LocalModes::ECHO)
    }
}

#[test]
fn terminal_is_raw_while_a_command_runs_and_restored_when_a_signal_ends_it() {
    let home = Home::new();
    let terminal = Terminal::open();
    assert!(terminal.has_echo());
    let mut child = terminal.start_cat(&home);
    assert!(!terminal.has_echo());
    signal(&child, Signal::TERM);
    assert_eq!(code_of(child.wait().expect("smolvm ends")), 128 + 15);
    assert!(terminal.has_echo());
}

#[test]
fn terminal_without_interactive_is_not_read() {
    let home = Home::new();
    let terminal = Terminal::open();
    let output = home
        .command(&["run", "cat"])
        .stdin(terminal.near_end())
        .output()
        .expect("smolvm starts");
    assert_eq!((code_of(output.status), output.stdout), (0, Vec::new()));
}
