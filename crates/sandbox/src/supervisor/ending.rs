//! How a machine ended, and what is done and said then.

use smolvm_protocol::control::{
    LeaseEvent, MachineEnd, MachineEndKind, StartFailure, StartFailureKind, SupervisorReply,
};
use smolvm_protocol::message::{Refusal, RefusalCode};

use super::SuperviseError;
use super::clients::{self, Connection};
use super::lease::Lease;
use crate::engine::MachineExit;
use crate::record::SandboxDir;
use crate::store::{SandboxLock, Store, remove_if_there};
use crate::text;

/// Characters of a kernel's reason for its panic that are told.
const MAX_PANIC_CHARS: usize = 200;

/// Says in one line how a machine ended; `panic` is why its kernel panicked.
pub(super) fn describe(
    exit: &MachineExit,
    panic: Option<&str>,
    was_stopped: bool,
) -> (MachineEndKind, String) {
    if let Some(reason) = panic {
        let reason = text::excerpt(reason, MAX_PANIC_CHARS);
        return (
            MachineEndKind::GuestPanicked,
            format!("the guest's kernel panicked: {reason}"),
        );
    }
    match exit {
        _ if was_stopped => (MachineEndKind::Stopped, "stopped".to_owned()),
        MachineExit::PoweredOff => (
            MachineEndKind::PoweredOff,
            "the guest powered itself off".to_owned(),
        ),
        MachineExit::Reset => (MachineEndKind::PoweredOff, "the guest rebooted".to_owned()),
        MachineExit::VmmEnded { status, messages } => {
            let last = messages
                .last()
                .map(|line| format!(": {line}"))
                .unwrap_or_default();
            (
                MachineEndKind::VmmDied,
                format!("the VMM ended by itself with {status}{last}"),
            )
        }
    }
}

/// Returns what the lease's holder is told.
pub(super) fn event(failure: Option<StartFailure>, was_ready: bool, end: MachineEnd) -> LeaseEvent {
    if was_ready {
        return LeaseEvent::Ended(end);
    }
    let kind = match end.kind {
        MachineEndKind::GuestPanicked => StartFailureKind::GuestPanicked,
        MachineEndKind::PoweredOff | MachineEndKind::Stopped | MachineEndKind::VmmDied => {
            StartFailureKind::VmmFailed
        }
    };
    let (kind, message) = match failure {
        Some(failure) if kind != StartFailureKind::GuestPanicked => (failure.kind, failure.message),
        _ => (kind, end.message),
    };
    LeaseEvent::Failed(StartFailure {
        kind,
        message,
        console_tail: end.console_tail,
    })
}

/// What the driver leaves behind when the machine has ended.
pub(super) struct Ended {
    pub(super) directory: SandboxDir,
    pub(super) lease: Lease,
    pub(super) event: LeaseEvent,
    pub(super) waiting: Vec<Connection>,
    pub(super) is_deleting: bool,
}

impl Ended {
    /// Removes what is to be removed, then tells everybody who waits.
    pub(super) async fn conclude(
        self,
        store: &Store,
        lock: SandboxLock,
    ) -> Result<(), SuperviseError> {
        remove_if_there(&self.directory.socket());
        let removed = if self.is_deleting {
            store.remove(lock)
        } else {
            drop(lock);
            Ok(())
        };
        let reply = match &removed {
            Ok(()) => SupervisorReply::Stopped,
            Err(error) => SupervisorReply::Refused(Refusal {
                code: RefusalCode::Io,
                message: text::chain(error),
            }),
        };
        for connection in self.waiting {
            clients::reply(connection, &reply).await;
        }
        self.lease.send(self.event);
        self.lease.finish().await;
        Ok(removed?)
    }
}
