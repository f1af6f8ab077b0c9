//! What confines the monitor once it has all that it needs: a guest that takes it over finds
//!
//! ```text
//!   rights   no capability                                       [`give_up`]
//!   files    no path that can be opened (Landlock)               [`give_up`]
//!   calls    the few system calls that its thread is there for   [`confine`]; any other ends
//!            ([`filters`])                                       the process
//! ```
//!
//! This comes on top of `smolvm_jail`, which this program has entered before: no new privileges, no
//! file but this machine's, limits, and an end with the supervisor.
//!
//! It fails closed: a machine whose jail cannot be made does not run. Only where the kernel has
//! no Landlock, or an older one, files are as far restricted as it can.

pub(crate) mod filters;

use std::error::Error as _;
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::BpfProgram;

use filters::ThreadKind;

/// Why a thread could not be confined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JailError {
    /// Capabilities could not be given up.
    #[error("give up capabilities")]
    Capabilities(#[source] io::Error),
    /// Landlock refused.
    #[error(transparent)]
    Files(#[from] smolvm_jail::JailError),
    /// The list of system calls could not be put in force.
    #[error("restrict system calls")]
    Calls(#[from] seccompiler::Error),
}

/// Gives up every right to open files and everything that only root may do, for the calling thread
/// and those that it starts from now on.
///
/// # Errors
///
/// When the kernel refuses; what of it is in force then is not known.
pub(crate) fn give_up() -> Result<(), JailError> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)
        .map_err(|error| JailError::Capabilities(error.into()))?;
    let _as_far_as_the_kernel_can = smolvm_jail::restrict_access(&[], &[])?;
    Ok(())
}

/// Has the kernel end this process when the calling thread makes a call that its kind has no use
/// for.
///
/// # Errors
///
/// When the kernel refuses.
pub(crate) fn confine(kind: ThreadKind) -> Result<(), JailError> {
    let program: BpfProgram = filters::compile(kind)?;
    Ok(seccompiler::apply_filter(&program)?)
}

/// Confines the calling thread, or ends the process: a thread that is to work alone has nobody to
/// tell, and nothing runs unconfined.
pub(crate) fn confine_or_end(kind: ThreadKind) {
    if let Err(error) = confine(kind) {
        eprintln!("smolvm-vmm: {error}: {:?}", error.source());
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::{Command, Output};

    use super::*;
    use crate::sys;

    /// Names, in a process of a test's own, what is to be tried.
    const TRIAL: &str = "SMOLVM_VMM_JAIL_TRIAL";

    /// Something that a monitor which was taken over could try.
    type Attempt = (&'static str, fn());

    const ATTEMPTS: &[Attempt] = &[
        ("open", || drop(File::open("/dev/null"))),
        ("socket", || drop(UdpSocket::bind("127.0.0.1:0"))),
        ("execve", || drop(Command::new("/bin/true").exec())),
        ("ptrace", sys::be_traced),
        ("thread", || drop(std::thread::Builder::new().spawn(|| {}))),
        ("unlink", || drop(std::fs::remove_file("/nonexistent"))),
        ("executable memory", || drop(sys::executable_page())),
        ("kill", || {
            let _sent = rustix::process::test_kill_process(rustix::process::getpid());
        }),
    ];

    const KINDS: [(&str, ThreadKind); 4] = [
        ("control", ThreadKind::Control),
        ("listener", ThreadKind::Listener),
        ("processor", ThreadKind::Processor),
        ("devices", ThreadKind::Devices),
    ];

    /// Runs the test `tries` in a process of its own, told to try `what`.
    fn process(tries: &str, what: &str) -> Output {
        let test = std::env::current_exe().expect("this program");
        let mut command = Command::new(test);
        command.args([tries, "--exact", "--nocapture"]);
        command.env(TRIAL, what).output().expect("a process")
    }

    /// Not a test by itself: what the processes of the next one do.
    #[test]
    fn tries_what_it_is_told() {
        let Ok(told) = std::env::var(TRIAL) else {
            return;
        };
        let (kind, what) = told.split_once(':').expect("a kind and an attempt");
        let kind = KINDS.iter().find(|(name, _)| *name == kind).expect("known");
        let attempt = ATTEMPTS.iter().find(|(name, _)| *name == what);
        confine(kind.1).expect("seccomp");
        // What every thread does, also with its memory.
        let lines: Vec<String> = (0..1000).map(|line| format!("line {line}")).collect();
        assert_eq!(lines.concat().len(), 7890);
        eprintln!("confined");
        if let Some((_, attempt)) = attempt {
            attempt();
        }
        eprintln!("went on");
    }

    #[test]
    fn any_other_call_ends_the_process_whichever_thread_makes_it() {
        for (kind, _) in KINDS {
            for what in ATTEMPTS.iter().map(|(name, _)| *name) {
                let ended = process(
                    "jail::tests::tries_what_it_is_told",
                    &format!("{kind}:{what}"),
                );
                let said = String::from_utf8_lossy(&ended.stderr).into_owned();
                assert!(said.contains("confined"), "{kind} {what}: {said}");
                assert!(!said.contains("went on"), "{kind} {what}: {said}");
                assert_eq!(ended.status.signal(), Some(libc::SIGSYS), "{kind} {what}");
            }
            let ended = process(
                "jail::tests::tries_what_it_is_told",
                &format!("{kind}:nothing"),
            );
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(said.contains("went on"), "{kind}: {said}");
        }
    }

    /// Not a test by itself: what the process of the next one does.
    #[test]
    fn gives_up_and_looks() {
        if std::env::var(TRIAL).is_err() {
            return;
        }
        give_up().expect("Landlock");
        let rights = rustix::thread::capabilities(None).expect("own");
        assert!(rights.effective.is_empty() && rights.permitted.is_empty());
        for path in ["/dev/null", "/etc/hostname", "/proc/self/status"] {
            let refused = File::open(path).expect_err(path);
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{path}");
        }
        assert!(File::create("/tmp/smolvm-vmm-jail-test").is_err());
        eprintln!("went on");
    }

    #[test]
    fn no_path_can_be_opened_and_no_capability_is_left() {
        let ended = process("jail::tests::gives_up_and_looks", "yes");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success() && said.contains("went on"), "{said}");
    }
}
