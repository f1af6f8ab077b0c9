//! The few words of QMP that are needed: how the machine ended, and its power button.
//!
//! QMP is one JSON object per line (QEMU, docs/interop/qmp-spec.rst). QEMU can be taken over by
//! its guest, so what it says is hostile: lines are bounded and unknown messages are skipped.

use std::io::{self, Write as _};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, LinesCodec};

/// Longest line that is read, in bytes. QEMU's greeting and events are below 1 KiB.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Ends the negotiation that opens a session (qmp-spec.rst, "Capabilities Negotiation").
const NEGOTIATE: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// Presses the power button (QEMU QAPI, `system_powerdown`).
const POWER_DOWN: &[u8] = b"{\"execute\":\"system_powerdown\"}\n";

/// Stops and continues the machine (QEMU QAPI, `stop` and `cont`). Each is followed by an event.
const STOP: &[u8] = b"{\"execute\":\"stop\"}\n";
const CONTINUE: &[u8] = b"{\"execute\":\"cont\"}\n";

/// How long QEMU may take to stop or continue the machine.
const PAUSE_PATIENCE: Duration = Duration::from_secs(5);

/// Why QEMU says the machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShutdownReason {
    /// The guest powered off.
    PoweredOff,
    /// The guest rebooted; QEMU runs with `-no-reboot`.
    Reset,
}

#[derive(Deserialize)]
struct Message {
    event: Option<String>,
    data: Option<EventData>,
}

#[derive(Deserialize)]
struct EventData {
    reason: Option<String>,
}

/// A QMP session. The connection is read until QEMU closes it.
#[derive(Debug)]
pub(super) struct Qmp {
    writer: WriteHalf<UnixStream>,
    reader: Option<JoinHandle<Option<ShutdownReason>>>,
    is_paused: watch::Receiver<bool>,
    reason: Option<ShutdownReason>,
}

impl Qmp {
    /// Opens the session: from now on QEMU reports events.
    ///
    /// Does not wait for QEMU: the socket holds the one line until QEMU reads it.
    pub(super) fn start(mut stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.write_all(NEGOTIATE)?;
        stream.set_nonblocking(true)?;
        let (reader, writer) = tokio::io::split(UnixStream::from_std(stream)?);
        let (paused, is_paused) = watch::channel(false);
        Ok(Self {
            writer,
            reader: Some(tokio::spawn(read_events(reader, paused))),
            is_paused,
            reason: None,
        })
    }

    /// Presses the machine's power button.
    pub(super) async fn power_down(&mut self) -> io::Result<()> {
        self.writer.write_all(POWER_DOWN).await
    }

    /// Stops or continues the machine, and waits until QEMU says that it has.
    pub(super) async fn set_paused(&mut self, is_paused: bool) -> io::Result<()> {
        let command = if is_paused { STOP } else { CONTINUE };
        self.writer.write_all(command).await?;
        let changed = self.is_paused.wait_for(|paused| *paused == is_paused);
        match tokio::time::timeout(PAUSE_PATIENCE, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Continues the machine without waiting until it does. A socket that is full of commands is
    /// one that QEMU does not read, which the machine's end will tell.
    pub(super) fn resume_soon(&mut self) {
        let _unread = self.writer.write_all(CONTINUE).now_or_never();
    }

    /// Returns why the machine ended. Waits until QEMU has closed the connection.
    pub(super) async fn shutdown_reason(&mut self) -> Option<ShutdownReason> {
        if let Some(reader) = &mut self.reader {
            self.reason = reader.await.unwrap_or_default();
            self.reader = None;
        }
        self.reason
    }
}

async fn read_events(
    reader: ReadHalf<UnixStream>,
    paused: watch::Sender<bool>,
) -> Option<ShutdownReason> {
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    let mut reason = None;
    while let Some(line) = lines.next().await {
        // A line longer than any of QEMU's is not QEMU's.
        let Ok(line) = line else { break };
        if let Some(found) = shutdown_reason_of(&line) {
            reason = Some(found);
        }
        if let Some(is_paused) = pause_in(&line) {
            paused.send_replace(is_paused);
        }
    }
    reason
}

/// Returns what a `STOP` or `RESUME` event says (QEMU QAPI).
fn pause_in(line: &str) -> Option<bool> {
    let message: Message = serde_json::from_str(line).ok()?;
    match message.event.as_deref()? {
        "STOP" => Some(true),
        "RESUME" => Some(false),
        _ => None,
    }
}

/// Returns what a `SHUTDOWN` event says (QEMU QAPI, `ShutdownCause`).
fn shutdown_reason_of(line: &str) -> Option<ShutdownReason> {
    let message: Message = serde_json::from_str(line).ok()?;
    if message.event.as_deref() != Some("SHUTDOWN") {
        return None;
    }
    match message.data?.reason?.as_str() {
        "guest-shutdown" => Some(ShutdownReason::PoweredOff),
        "guest-reset" | "guest-panic" => Some(ShutdownReason::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shutdown_event_tells_power_off_from_reset() {
        let event = |reason: &str| {
            format!(
                r#"{{"timestamp": {{"seconds": 1, "microseconds": 2}}, "event": "SHUTDOWN",
                "data": {{"guest": true, "reason": "{reason}"}}}}"#
            )
        };
        assert_eq!(
            shutdown_reason_of(&event("guest-shutdown")),
            Some(ShutdownReason::PoweredOff)
        );
        assert_eq!(
            shutdown_reason_of(&event("guest-reset")),
            Some(ShutdownReason::Reset)
        );
        assert_eq!(shutdown_reason_of(&event("host-signal")), None);
    }

    #[test]
    fn greeting_and_answers_are_not_shutdowns() {
        assert_eq!(
            shutdown_reason_of(r#"{"QMP": {"version": {}, "capabilities": []}}"#),
            None
        );
        assert_eq!(shutdown_reason_of(r#"{"return": {}}"#), None);
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line in ".{0,200}") {
            let _reason = shutdown_reason_of(&line);
        }
    }
}
