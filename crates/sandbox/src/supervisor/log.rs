//! What a supervisor says of itself, in a file of bounded size that lives as long as the sandbox.

use std::io::{self, Write};

use super::Inherited;
use crate::bounded_log::{BoundedLog, MAX_LOG_BYTES};

/// The log of one supervisor. Its process writes to nothing else: when the log starts anew, both
/// outputs follow it, so that a panic is in the file where the rest is.
#[derive(Debug)]
pub struct SupervisorLog {
    log: BoundedLog,
}

impl SupervisorLog {
    /// Goes on with the log of the sandbox that this supervisor was started for.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn open(inherited: &Inherited) -> io::Result<Self> {
        let path = inherited.lock.directory().supervisor_log();
        Ok(Self {
            log: BoundedLog::append(path, MAX_LOG_BYTES)?,
        })
    }
}

impl Write for SupervisorLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.log.write(bytes)? {
            rustix::stdio::dup2_stdout(self.log.file())?;
            rustix::stdio::dup2_stderr(self.log.file())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
