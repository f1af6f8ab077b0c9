//! What happened on a sandbox's network, as a line for people.

use std::time::Duration;

use smolvm_sandbox::{NetworkCause, NetworkEvent, NetworkRecord, NetworkVerdict};

use crate::text;

/// Returns an event as one line, with its line break.
pub(super) fn of(record: &NetworkRecord) -> String {
    let time = text::time_of_day(record.time_unix_ms);
    let cause = record.cause.as_ref().map(from).unwrap_or_default();
    let event = describe(&record.event) + &cause;
    // Names and paths come from the guest.
    let event = text::printable(event.as_bytes());
    format!("{time}  {event}\n")
}

/// Returns which command an event comes from, as the guest says.
fn from(cause: &NetworkCause) -> String {
    let NetworkCause {
        exec,
        pid,
        program,
        job,
        has_ended,
    } = cause;
    let command = match job {
        Some(job) => format!("job {job}"),
        None => format!("exec {exec}"),
    };
    let ended = if *has_ended { ", ended" } else { "" };
    format!(" [{command}: {program}, pid {pid}{ended}]")
}

fn describe(event: &NetworkEvent) -> String {
    match event {
        NetworkEvent::Dns {
            name,
            record_type,
            verdict,
            outcome,
            addresses,
            withheld,
        } => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let withheld = match withheld.len() {
                0 => String::new(),
                count => format!(" ({count} withheld)"),
            };
            format!(
                "dns      {name} {record_type}: {outcome} {}{withheld} {}",
                addresses.join(" "),
                by(verdict)
            )
        }
        NetworkEvent::Connection {
            connection,
            protocol,
            destination,
            name,
            verdict,
            ..
        } => {
            let name = name
                .as_ref()
                .map(|name| format!(" ({name})"))
                .unwrap_or_default();
            let protocol = format!("{protocol:?}").to_lowercase();
            format!(
                "{protocol:<7}  #{connection} to {destination}{name} {}",
                by(verdict)
            )
        }
        NetworkEvent::Incoming {
            connection,
            protocol,
            peer,
            source,
            destination,
            verdict,
        } => {
            let protocol = format!("{protocol:?}").to_lowercase();
            let port = destination.port();
            format!(
                "{protocol:<7}  #{connection} to port {port} from {source} ({peer}) {}",
                by(verdict)
            )
        }
        NetworkEvent::Name {
            connection,
            shown_by,
            name,
            verdict,
        } => {
            let name = name.as_deref().unwrap_or("no name");
            format!("{shown_by:<7}  #{connection} shows {name} {}", by(verdict))
        }
        NetworkEvent::Request {
            connection,
            method,
            host,
            path,
            status,
            secrets,
            verdict,
        } => {
            let status = status.map_or_else(|| "no response".to_owned(), |code| code.to_string());
            let secrets = match secrets.is_empty() {
                true => String::new(),
                false => format!(" with {}", secrets.join(", ")),
            };
            format!(
                "http     #{connection} {method} {host}{path}: {status}{secrets} {}",
                by(verdict)
            )
        }
        NetworkEvent::Closed {
            connection,
            sent_bytes,
            received_bytes,
            duration_ms,
            reason,
        } => format!(
            "end      #{connection} after {}: {reason}; {} sent, {} received",
            text::duration(Duration::from_millis(*duration_ms)),
            text::size(*sent_bytes),
            text::size(*received_bytes)
        ),
        NetworkEvent::Dropped { reason, frames } => {
            format!("dropped  {frames} frames: {reason}")
        }
        NetworkEvent::Policy { summary } => format!("policy   {summary}"),
        NetworkEvent::Lost { events } => format!("lost     {events} events"),
    }
}

fn by(verdict: &NetworkVerdict) -> String {
    let word = if verdict.is_allowed {
        "allowed"
    } else {
        "denied"
    };
    format!("-- {word} by {}", verdict.rule)
}
