//! The signals that ask this program to end: SIGINT, SIGTERM and SIGHUP.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use smolvm_sandbox::ErrorKind;

/// Receives the signals that ask this program to end, instead of ending at once.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Interrupts {
    /// Begins to receive them. One that this program was started to ignore, as under nohup(1),
    /// stays ignored.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let ignored = ignored_signals();
        let listen = |kind: SignalKind| -> io::Result<Option<Signal>> {
            let is_ignored = ignored >> (kind.as_raw_value() - 1) & 1 == 1;
            if is_ignored {
                Ok(None)
            } else {
                signal(kind).map(Some)
            }
        };
        let listen_to_all = || -> io::Result<Self> {
            Ok(Self {
                interrupt: listen(SignalKind::interrupt())?,
                terminate: listen(SignalKind::terminate())?,
                hangup: listen(SignalKind::hangup())?,
            })
        };
        listen_to_all()
            .map_err(|error| Failure::new(ErrorKind::Host, format!("receive signals: {error}")))
    }

    /// Returns the number of the next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            () = received(&mut self.interrupt) => SignalKind::interrupt().as_raw_value(),
            () = received(&mut self.terminate) => SignalKind::terminate().as_raw_value(),
            () = received(&mut self.hangup) => SignalKind::hangup().as_raw_value(),
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// Returns the mask of ignored signals, bit n-1 for signal n (proc_pid_status(5), `SigIgn`).
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}
