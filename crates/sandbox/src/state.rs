//! The life cycle of a sandbox: its states and the changes between them.
//!
//! ```text
//!   created, stopped, error      --start-->  starting   a supervisor takes over
//!   starting                     --ready-->  running    the agent has answered
//!   running                      --pause-->  paused     the machine is held still
//!   paused                       --resume->  running    it goes on
//!   starting, running, paused    --stop--->  stopping   somebody asked for the end
//!   running, paused, stopping    --ended-->  stopped    the machine has ended in order
//!   every one but those at rest  --fail--->  error      it could not start, or died
//! ```
//!
//! The owner of a sandbox's lock is the only writer of its state: its supervisor while there is
//! one, else the command that took the lock. Delete is legal in every state and is not a state:
//! a sandbox that is deleted is gone.

use serde::{Deserialize, Serialize};

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Its files exist; it was never started.
    Created,
    /// Its supervisor is starting the machine.
    Starting,
    /// Its agent has answered.
    Running,
    /// Its machine is held still.
    Paused,
    /// Its guest is shutting down.
    Stopping,
    /// Its machine has ended in order; its disk is kept.
    Stopped,
    /// Its machine could not be started or ended by itself; its disk is kept.
    Error,
}

/// What can happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// A supervisor begins to start the machine.
    Start,
    /// The agent has answered.
    Ready,
    /// Somebody asks for the machine to be held still.
    Pause,
    /// Somebody asks for it to go on.
    Resume,
    /// Somebody asks for the end of the machine.
    Stop,
    /// The machine has ended as it was asked to, or the guest powered itself off.
    Ended,
    /// The machine could not be started, or ended by itself.
    Fail,
}

impl SandboxState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Error,
    ];

    /// Returns the state after `transition`, or `None` when that cannot happen in this state.
    #[must_use]
    pub const fn after(self, transition: Transition) -> Option<Self> {
        match (self, transition) {
            (Self::Created | Self::Stopped | Self::Error, Transition::Start) => {
                Some(Self::Starting)
            }
            (Self::Starting, Transition::Ready) => Some(Self::Running),
            (Self::Running, Transition::Pause) => Some(Self::Paused),
            (Self::Paused, Transition::Resume) => Some(Self::Running),
            (Self::Starting | Self::Running | Self::Paused, Transition::Stop) => {
                Some(Self::Stopping)
            }
            (Self::Running | Self::Paused | Self::Stopping, Transition::Ended) => {
                Some(Self::Stopped)
            }
            (Self::Starting | Self::Running | Self::Paused | Self::Stopping, Transition::Fail) => {
                Some(Self::Error)
            }
            _ => None,
        }
    }

    /// Returns whether a supervisor must be alive in this state.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Running | Self::Paused | Self::Stopping
        )
    }

    /// Returns the state's name, as commands and JSON spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRANSITIONS: [Transition; 7] = [
        Transition::Start,
        Transition::Ready,
        Transition::Pause,
        Transition::Resume,
        Transition::Stop,
        Transition::Ended,
        Transition::Fail,
    ];

    /// The table above, written as the list of its arrows.
    const ARROWS: [(SandboxState, Transition, SandboxState); 16] = [
        (
            SandboxState::Running,
            Transition::Pause,
            SandboxState::Paused,
        ),
        (
            SandboxState::Paused,
            Transition::Resume,
            SandboxState::Running,
        ),
        (
            SandboxState::Paused,
            Transition::Stop,
            SandboxState::Stopping,
        ),
        (
            SandboxState::Paused,
            Transition::Ended,
            SandboxState::Stopped,
        ),
        (SandboxState::Paused, Transition::Fail, SandboxState::Error),
        (
            SandboxState::Created,
            Transition::Start,
            SandboxState::Starting,
        ),
        (
            SandboxState::Stopped,
            Transition::Start,
            SandboxState::Starting,
        ),
        (
            SandboxState::Error,
            Transition::Start,
            SandboxState::Starting,
        ),
        (
            SandboxState::Starting,
            Transition::Ready,
            SandboxState::Running,
        ),
        (
            SandboxState::Starting,
            Transition::Stop,
            SandboxState::Stopping,
        ),
        (
            SandboxState::Starting,
            Transition::Fail,
            SandboxState::Error,
        ),
        (
            SandboxState::Running,
            Transition::Stop,
            SandboxState::Stopping,
        ),
        (
            SandboxState::Running,
            Transition::Ended,
            SandboxState::Stopped,
        ),
        (SandboxState::Running, Transition::Fail, SandboxState::Error),
        (
            SandboxState::Stopping,
            Transition::Ended,
            SandboxState::Stopped,
        ),
        (
            SandboxState::Stopping,
            Transition::Fail,
            SandboxState::Error,
        ),
    ];

    #[test]
    fn exactly_the_stated_changes_are_allowed() {
        for state in SandboxState::ALL {
            for transition in TRANSITIONS {
                let stated = ARROWS
                    .iter()
                    .find(|(from, by, _)| (*from, *by) == (state, transition))
                    .map(|(_, _, to)| *to);
                assert_eq!(state.after(transition), stated, "{state:?} {transition:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn running_is_reached_only_through_starting_or_a_pause(
            transitions in proptest::collection::vec(proptest::sample::select(&TRANSITIONS[..]), 0..64),
        ) {
            let mut state = SandboxState::Created;
            for transition in transitions {
                if let Some(next) = state.after(transition) {
                    if next == SandboxState::Running {
                        prop_assert!(matches!(
                            state,
                            SandboxState::Starting | SandboxState::Paused
                        ));
                    }
                    state = next;
                }
            }
        }

        #[test]
        fn every_reachable_state_can_be_left_and_started_again(
            transitions in proptest::collection::vec(proptest::sample::select(&TRANSITIONS[..]), 0..64),
        ) {
            let reached = transitions.into_iter().fold(SandboxState::Created, |state, transition| {
                state.after(transition).unwrap_or(state)
            });
            let at_rest = if reached.is_active() {
                reached.after(Transition::Fail).expect("an active machine can die")
            } else {
                reached
            };
            prop_assert_eq!(at_rest.after(Transition::Start), Some(SandboxState::Starting));
        }
    }
}
