//! Commands on a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use smolvm_tests::{Host, PATIENCE, wait};

/// A terminal with `smolvm` on it.
struct Terminal {
    child: Child,
    controller: File,
    pieces: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open(host: &Host, arguments: &[&str], rows: u16, columns: u16) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&controller).expect("granted");
        unlockpt(&controller).expect("unlocked");
        tcsetwinsize(&controller, size(rows, columns)).expect("sized");
        let name = ptsname(&controller, Vec::new()).expect("named");
        let end = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("UTF-8"))
            .expect("opened");
        let stdio = || Stdio::from(OwnedFd::from(end.try_clone().expect("cloned")));
        let child = host
            .command(arguments)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("spawned");
        let controller = File::from(controller);
        let mut reader = controller.try_clone().expect("cloned");
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            controller,
            pieces,
            seen: String::new(),
        }
    }

    /// Waits until `words` were seen, and forgets everything up to them.
    fn expect(&mut self, words: &str) {
        loop {
            if let Some(at) = self.seen.find(words) {
                self.seen.drain(..at + words.len());
                return;
            }
            let piece = self.pieces.recv_timeout(PATIENCE);
            let piece = piece.unwrap_or_else(|_| panic!("{words:?} not in {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    fn type_line(&mut self, line: &str) {
        self.controller.write_all(line.as_bytes()).expect("typed");
        self.controller.write_all(b"\r").expect("typed");
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[test]
fn shell_has_a_terminal_of_the_right_size_which_follows_resizes() {
    let host = Host::new();
    host.start("box", &[]);
    let mut terminal = Terminal::open(&host, &["shell", "box"], 33, 101);
    terminal.type_line("stty size; tty");
    terminal.expect("33 101");
    terminal.expect("/dev/pts/");
    tcsetwinsize(&terminal.controller, size(44, 120)).expect("sized");
    let child = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(child, rustix::process::Signal::WINCH).expect("told");
    host.wait_until("the new size", |_| {
        terminal.type_line("stty size; echo end-of-line");
        terminal.expect("end-of-line\r\n");
        terminal.expect("end-of-line");
        true
    });
    terminal.type_line("stty size; echo $((6*7))-done");
    terminal.expect("44 120");
    terminal.expect("42-done");
    terminal.type_line("exit 5");
    assert_eq!(wait(&mut terminal.child), 5);
}

#[test]
fn interrupt_key_ends_the_command_and_not_the_client() {
    let host = Host::new();
    host.start("box", &[]);
    let line = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::open(
        &host,
        &["exec", "-it", "box", "--", "sh", "-c", line],
        24,
        80,
    );
    terminal.expect("ready");
    terminal.controller.write_all(b"\x03").expect("typed");
    terminal.expect("caught");
    assert_eq!(wait(&mut terminal.child), 3);
}
