//! The terminal this program runs on: its size, and its raw mode.

use std::io::{self, IsTerminal as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use smolvm_sandbox::message::TerminalSize;

/// Size of a terminal that does not say how large it is: what programs assume too (termios(3)
/// has no default; 24 by 80 is the DEC VT100's).
const FALLBACK: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// Returns the size of the terminal.
pub(crate) fn size() -> TerminalSize {
    let of_stdout = tcgetwinsize(io::stdout());
    let of_stdin = || tcgetwinsize(io::stdin());
    match of_stdout.or_else(|_| of_stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize {
            rows: size.ws_row,
            columns: size.ws_col,
        },
        _ => FALLBACK,
    }
}

/// The terminal of standard input in raw mode, in which every key goes to the guest. Dropping it
/// restores the terminal.
pub(crate) struct RawTerminal {
    restored: Termios,
}

impl RawTerminal {
    /// Puts the terminal of standard input into raw mode; `None` when it is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let restored = tcgetattr(&stdin)?;
        let mut raw = restored.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Self { restored }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Drain, &self.restored);
    }
}
