//! The few words of QMP that are needed: how the machine ended, its power button, pauses, and
//! recordings.
//!
//! QMP is one JSON object per line (QEMU, docs/interop/qmp-spec.rst). QEMU can be taken over by
//! its guest, so what it says is hostile: lines are bounded and unknown messages are skipped.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::text;

/// Name of the device that the agent's stream belongs to.
pub(super) const AGENT_DEVICE: &str = "agent";

/// Longest line that is read, in bytes. QEMU's greeting and events are below 1 KiB.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Longest error of QEMU's that is passed on, in characters.
const MAX_ERROR_CHARS: usize = 300;

/// Ends the negotiation that opens a session (qmp-spec.rst, "Capabilities Negotiation").
const NEGOTIATE: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// Presses the power button (QEMU QAPI, `system_powerdown`).
const POWER_DOWN: &[u8] = b"{\"execute\":\"system_powerdown\"}\n";

/// Stops and continues the machine (QEMU QAPI, `stop` and `cont`). Each is followed by an event.
const STOP: &[u8] = b"{\"execute\":\"stop\"}\n";
const CONTINUE: &[u8] = b"{\"execute\":\"cont\"}\n";

/// Leaves memory that is in a shared file out of a migration, and has its end reported
/// (QEMU QAPI, `MigrationCapability`).
const ALL_BUT_MEMORY: &str = "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":\
     [{\"capability\":\"x-ignore-shared\",\"state\":true},{\"capability\":\"events\",\"state\":true}]}}\n";

/// Takes over the descriptor that comes with it under this name (QEMU QAPI, `getfd`).
const GET_STATE: &[u8] = b"{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"}}\n";

/// How long QEMU may take to stop or continue the machine.
const PAUSE_PATIENCE: Duration = Duration::from_secs(5);

/// How long QEMU may take to write or read a machine's state: some 40 KB.
const STATE_PATIENCE: Duration = Duration::from_secs(30);

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
    error: Option<CommandError>,
}

#[derive(Deserialize)]
struct EventData {
    reason: Option<String>,
    status: Option<String>,
    id: Option<String>,
    open: Option<bool>,
}

#[derive(Deserialize)]
struct CommandError {
    desc: String,
}

/// What QEMU has said so far of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    is_paused: bool,
    /// Whether the guest has the agent's stream open.
    is_port_open: bool,
    /// How often it has closed its end, at least.
    port_closings: u64,
    /// How the last migration has ended, if one has.
    migration: Option<Result<(), String>>,
    /// The last command that QEMU has refused.
    refusal: Option<String>,
    shutdown: Option<ShutdownReason>,
}

impl View {
    /// Takes a line of QEMU's into account.
    fn note(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Message>(line) else {
            return;
        };
        if let Some(error) = message.error {
            self.refusal = Some(text::excerpt(&error.desc, MAX_ERROR_CHARS));
        }
        let Some(event) = message.event else { return };
        match (event.as_str(), message.data) {
            ("STOP", _) => self.is_paused = true,
            ("RESUME", _) => self.is_paused = false,
            ("SHUTDOWN", Some(data)) => {
                self.shutdown = shutdown_reason(data.reason.as_deref()).or(self.shutdown);
            }
            ("VSERPORT_CHANGE", Some(data)) if data.id.as_deref() == Some(AGENT_DEVICE) => {
                // QEMU says this once a second at most, and then the last of it: an end that was open
                // and is open has been closed in between.
                self.port_closings += u64::from(self.is_port_open);
                self.is_port_open = data.open == Some(true);
            }
            ("MIGRATION", Some(data)) => match data.status.as_deref() {
                Some("completed") => self.migration = Some(Ok(())),
                Some("failed") => self.migration = Some(Err("the migration failed".to_owned())),
                _ => {}
            },
            _ => {}
        }
    }
}

/// Returns what a `SHUTDOWN` event says (QEMU QAPI, `ShutdownCause`).
fn shutdown_reason(reason: Option<&str>) -> Option<ShutdownReason> {
    match reason? {
        "guest-shutdown" => Some(ShutdownReason::PoweredOff),
        "guest-reset" | "guest-panic" => Some(ShutdownReason::Reset),
        _ => None,
    }
}

/// A QMP session. The connection is read until QEMU closes it.
#[derive(Debug)]
pub(super) struct Qmp {
    writer: OwnedWriteHalf,
    reader: Option<JoinHandle<()>>,
    view: watch::Receiver<View>,
}

impl Qmp {
    /// Opens the session: from now on QEMU reports events.
    ///
    /// Does not wait for QEMU: the socket holds the one line until QEMU reads it.
    pub(super) fn start(mut stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.write_all(NEGOTIATE)?;
        stream.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stream)?.into_split();
        let (sender, view) = watch::channel(View::default());
        Ok(Self {
            writer,
            reader: Some(tokio::spawn(read_lines(reader, sender))),
            view,
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
        self.wait_for(PAUSE_PATIENCE, |view| view.is_paused == is_paused)
            .await
            .map(drop)
    }

    /// Continues the machine without waiting until it does. A socket that is full of commands is
    /// one that QEMU does not read, which the machine's end will tell.
    pub(super) fn resume_soon(&mut self) {
        let _unread = self.writer.write_all(CONTINUE).now_or_never();
    }

    /// Waits until the guest has closed its end of the agent's stream. It has not done so before
    /// the first host leaves it.
    pub(super) async fn agent_port_closed(&mut self) -> io::Result<()> {
        let closed = self.view.wait_for(|view| view.port_closings > 0).await;
        closed
            .map(drop)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Writes the state of the stopped machine, but its memory, to `file`.
    pub(super) async fn save_state(&mut self, file: &File) -> io::Result<()> {
        self.migrate("migrate", file).await
    }

    /// Reads the machine's state from `file` and has it run.
    pub(super) async fn load_state(&mut self, file: &File) -> io::Result<()> {
        self.migrate("migrate-incoming", file).await?;
        // It is as it was when it was written down: stopped.
        self.writer.write_all(CONTINUE).await
    }

    async fn migrate(&mut self, command: &str, file: &File) -> io::Result<()> {
        self.hand_over(file).await?;
        let command = format!(
            "{ALL_BUT_MEMORY}{{\"execute\":\"{command}\",\"arguments\":{{\"uri\":\"fd:state\"}}}}\n"
        );
        self.writer.write_all(command.as_bytes()).await?;
        let has_ended = |view: &View| view.migration.is_some() || view.refusal.is_some();
        let view = self.wait_for(STATE_PATIENCE, has_ended).await?;
        match (view.migration, view.refusal) {
            (Some(Ok(())), _) => Ok(()),
            (_, Some(refusal)) => Err(io::Error::other(refusal)),
            (Some(Err(reason)), None) => Err(io::Error::other(reason)),
            (None, None) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Sends [`GET_STATE`] with the descriptor of `file`.
    async fn hand_over(&mut self, file: &File) -> io::Result<()> {
        let stream = self.writer.as_ref();
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors = [file.as_fd()];
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            let text = [IoSlice::new(GET_STATE)];
            Ok(sendmsg(stream, &text, &mut ancillary, SendFlags::NOSIGNAL)?)
        };
        let sent = stream.async_io(Interest::WRITABLE, send).await?;
        // The descriptor goes with the first byte; the rest is ordinary.
        self.writer.write_all(&GET_STATE[sent..]).await
    }

    /// Waits until what QEMU has said of the machine satisfies `wanted`, and returns it.
    async fn wait_for(
        &mut self,
        patience: Duration,
        wanted: impl FnMut(&View) -> bool,
    ) -> io::Result<View> {
        match tokio::time::timeout(patience, self.view.wait_for(wanted)).await {
            Ok(Ok(view)) => Ok(view.clone()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Returns why the machine ended. Waits until QEMU has closed the connection.
    pub(super) async fn shutdown_reason(&mut self) -> Option<ShutdownReason> {
        if let Some(reader) = &mut self.reader {
            // One that has panicked has read nothing more.
            let _ended = reader.await;
            self.reader = None;
        }
        self.view.borrow().shutdown
    }
}

async fn read_lines(reader: OwnedReadHalf, view: watch::Sender<View>) {
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    while let Some(line) = lines.next().await {
        // A line longer than any of QEMU's is not QEMU's.
        let Ok(line) = line else { break };
        view.send_if_modified(|view| {
            let before = view.clone();
            view.note(&line);
            *view != before
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(lines: &[&str]) -> View {
        let mut view = View::default();
        lines.iter().for_each(|line| view.note(line));
        view
    }

    #[test]
    fn shutdown_event_tells_power_off_from_reset() {
        let event = |reason: &str| {
            format!(
                r#"{{"timestamp": {{"seconds": 1, "microseconds": 2}}, "event": "SHUTDOWN",
                "data": {{"guest": true, "reason": "{reason}"}}}}"#
            )
        };
        let shutdown = |reason| seen(&[&event(reason)]).shutdown;
        assert_eq!(shutdown("guest-shutdown"), Some(ShutdownReason::PoweredOff));
        assert_eq!(shutdown("guest-reset"), Some(ShutdownReason::Reset));
        assert_eq!(shutdown("host-signal"), None);
    }

    #[test]
    fn greeting_and_answers_say_nothing_of_the_machine() {
        let greeting = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
        assert_eq!(seen(&[greeting, r#"{"return": {}}"#]), View::default());
    }

    #[test]
    fn only_the_agents_port_counts_and_only_its_closing() {
        let event = |id: &str, open: bool| {
            format!(r#"{{"event": "VSERPORT_CHANGE", "data": {{"open": {open}, "id": "{id}"}}}}"#)
        };
        let (opened, closed) = (event("agent", true), event("agent", false));
        assert_eq!(seen(&[&opened]).port_closings, 0);
        assert_eq!(seen(&[&opened, &closed]).port_closings, 1);
        assert_eq!(seen(&[&opened, &closed, &opened]).port_closings, 1);
        assert_eq!(seen(&[&opened, &opened]).port_closings, 1);
        assert_eq!(seen(&[&event("other", false)]).port_closings, 0);
    }

    #[test]
    fn migration_ends_with_its_last_status_and_refusals_are_told() {
        let event =
            |status: &str| format!(r#"{{"event": "MIGRATION", "data": {{"status": "{status}"}}}}"#);
        let (setup, completed) = (event("setup"), event("completed"));
        assert_eq!(seen(&[&setup]).migration, None);
        assert_eq!(seen(&[&setup, &completed]).migration, Some(Ok(())));
        assert!(matches!(seen(&[&event("failed")]).migration, Some(Err(_))));
        let refusal = r#"{"error": {"class": "GenericError", "desc": "no such file"}}"#;
        assert_eq!(seen(&[refusal]).refusal.as_deref(), Some("no such file"));
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line in ".{0,200}") {
            let _view = seen(&[&line]);
        }
    }
}
