//! The guest's console: the only place where the agent can say why it cannot serve.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// The kernel's console level, with three others after it (Documentation/admin-guide/sysctl/kernel.rst).
const LEVELS: &str = "/proc/sys/kernel/printk";

/// The level up to which messages are shown by default with `quiet`: errors, and what is worse
/// (include/linux/kern_levels.h; `CONSOLE_LOGLEVEL_QUIET`).
const ERRORS_AND_WORSE: u8 = 4;

/// Has the console show the kernel's errors, if it shows less: a machine that starts may have been
/// told not to show those about hardware that is not there.
pub(crate) fn show_errors() {
    let levels = std::fs::read_to_string(LEVELS).unwrap_or_default();
    let level = levels.split_ascii_whitespace().next();
    if level.is_some_and(|level| {
        level
            .parse()
            .is_ok_and(|level: u8| level < ERRORS_AND_WORSE)
    }) {
        // Without it, they are in the kernel's log alone.
        let _ = std::fs::write(LEVELS, ERRORS_AND_WORSE.to_string());
    }
}

/// Prints one line to the console, or to standard error where there is no console.
pub(crate) fn report(line: &str) {
    let line = format!("smolvm-agent: {line}\n");
    let console = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits().cast_signed())
        .open("/dev/console");
    // When neither takes it, nobody is there to be told.
    let _ = match console {
        Ok(mut console) => console.write_all(line.as_bytes()),
        Err(_) => std::io::stderr().write_all(line.as_bytes()),
    };
}

/// Prints `failed to ...: ...` with all causes, in one line.
pub(crate) fn report_failure(error: &dyn Error) {
    report(&format!("failed to {}", chain(error)));
}

/// Returns an error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// Makes every panic, of whichever thread, a line on the console.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        report(&panic.to_string().replace('\n', " "))
    }));
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::boot::BootError;

    #[test]
    fn failure_reads_as_one_sentence_with_its_cause() {
        let error = BootError::Mount {
            what: "proc",
            target: "/proc",
            source: io::Error::from(io::ErrorKind::PermissionDenied),
        };
        assert_eq!(chain(&error), "mount proc at /proc: permission denied");
    }
}
