//! The few words of QMP that are needed: how the machine ended, and its power button.
//!
//! QMP is one JSON object per line (QEMU, docs/interop/qmp-spec.rst). QEMU can be taken over by
//! its guest, so what it says is hostile: lines are bounded and unknown messages are skipped.

use std::io::{self, Write as _};

use futures::StreamExt as _;
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, LinesCodec};

/// Longest line that is read, in bytes. QEMU's greeting and events are below 1 KiB.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Ends the negotiation that opens a session (qmp-spec.rst, "Capabilities Negotiation").
const NEGOTIATE: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// Presses the power button (QEMU QAPI, `system_powerdown`).
const POWER_DOWN: &[u8] = b"{\"execute\":\"system_powerdown\"}\n";

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
        Ok(Self {
            writer,
            reader: Some(tokio::spawn(read_events(reader))),
            reason: None,
        })
    }

    /// Presses the machine's power button.
    pub(super) async fn power_down(&mut self) -> io::Result<()> {
        self.writer.write_all(POWER_DOWN).await
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

async fn read_events(reader: ReadHalf<UnixStream>) -> Option<ShutdownReason> {
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    let mut reason = None;
    while let Some(line) = lines.next().await {
        // A line longer than any of QEMU's is not QEMU's.
        let Ok(line) = line else { break };
        if let Some(found) = shutdown_reason_of(&line) {
            reason = Some(found);
        }
    }
    reason
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
