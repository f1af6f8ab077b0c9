//! The power switch.

use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

/// Makes ctrl-alt-del a SIGINT to PID 1 instead of an immediate restart (reboot(2)).
pub(crate) fn own_ctrl_alt_del() {
    // A kernel that refuses restarts at once, which also ends the guest.
    let _ = reboot(RebootCommand::CadOff);
}

/// Switches the machine off. Preconditions: what matters is on disk.
pub(crate) fn switch_off() -> ! {
    // It returns only when the machine cannot be switched off; then a restart, which a VMM
    // without restarts takes for the end.
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
    loop {
        // PID 1 must not exit: the kernel would panic over it.
        std::thread::sleep(Duration::from_secs(3600));
    }
}
