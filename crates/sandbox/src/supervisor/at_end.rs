//! What a guest does before it is shut down, and what is kept of it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use serde_bytes::ByteBuf;
use smolvm_protocol::message::{Command, Event, Exec, ExitReason, Limits};
use smolvm_protocol::{FrameError, FrameKind};
use tokio::io::AsyncWriteExt as _;

use crate::AtEnd;
use crate::multiplexer::{AgentSession, SessionError};

/// Why nothing was kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum AtEndError {
    /// The guest did not do it in time.
    #[error("the command was not done after {} s", patience.as_secs())]
    Slow {
        /// The time that it had.
        patience: Duration,
    },
    /// The agent could not be asked.
    #[error("ask the agent")]
    Session(#[from] SessionError),
    /// The agent broke the protocol.
    #[error("the agent's answer")]
    Frame(#[from] FrameError),
    /// The connection ended, or something came that is no answer.
    #[error("the agent's answer was cut off")]
    CutOff,
    /// The command failed.
    #[error("the command ended with {reason:?}")]
    Failed {
        /// How it ended.
        reason: ExitReason,
    },
    /// The command had more output than is taken.
    #[error("the command had over {max} bytes of output")]
    TooMuch {
        /// The most that is taken.
        max: u64,
    },
    /// The output could not be kept.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Has the guest do it, and keeps its output.
pub(super) async fn run(at_end: AtEnd, session: AgentSession) -> Result<(), AtEndError> {
    let patience = Duration::from_millis(at_end.patience_ms);
    match tokio::time::timeout(patience, keep_output(&at_end, &session)).await {
        Ok(kept) => kept,
        Err(_) => Err(AtEndError::Slow { patience }),
    }
}

async fn keep_output(at_end: &AtEnd, session: &AgentSession) -> Result<(), AtEndError> {
    let in_file = |source| AtEndError::Write {
        path: at_end.output.clone(),
        source,
    };
    let directory = at_end.output.parent().unwrap_or(&at_end.output);
    // Made with mode 0600 and removed unless it takes its name.
    let (file, place) = tempfile::NamedTempFile::new_in(directory)
        .map_err(in_file)?
        .into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let mut left = at_end.max_output_bytes;
    let mut answers = session.exec(&command(at_end)).await?;
    let reason = loop {
        let frame = answers.next().await.ok_or(AtEndError::CutOff)??;
        match frame.kind {
            FrameKind::Output => {
                let max = at_end.max_output_bytes;
                left = left
                    .checked_sub(frame.payload.len() as u64)
                    .ok_or(AtEndError::TooMuch { max })?;
                file.write_all(&frame.payload).await.map_err(in_file)?;
            }
            FrameKind::ErrorOutput => {}
            FrameKind::Message => match frame.parse()? {
                Event::Started { .. } => {}
                Event::Exited(exit) => break exit.reason,
                Event::Refused(refusal) => return Err(SessionError::Refused(refusal).into()),
                _ => return Err(AtEndError::CutOff),
            },
            FrameKind::Input | FrameKind::End => return Err(AtEndError::CutOff),
        }
    };
    if reason != (ExitReason::Exited { code: 0 }) {
        return Err(AtEndError::Failed { reason });
    }
    file.flush().await.map_err(in_file)?;
    place
        .persist(&at_end.output)
        .map_err(|error| in_file(error.error))
}

fn command(at_end: &AtEnd) -> Exec {
    let bytes = |word: &String| ByteBuf::from(word.as_bytes());
    Exec {
        command: Command::Arguments(at_end.command.iter().map(bytes).collect()),
        environment: Vec::new(),
        working_directory: None,
        user: None,
        stdin: false,
        terminal: None,
        timeout_ms: Some(at_end.patience_ms),
        limits: Limits::default(),
    }
}
