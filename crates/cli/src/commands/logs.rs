//! `logs`: what a sandbox's console said.
//!
//! Following a log means waiting for the kernel to tell of changes in the sandbox's directory
//! (inotify(7)): new output, a log that begins anew, another state, the end of the directory.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::json;
use smolvm_sandbox::{ErrorKind, Sandbox, SandboxId, StoreError};
use tokio::io::AsyncReadExt as _;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Report};
use crate::{text, values};

/// Most that is read of a log at once.
const PIECE_BYTES: usize = 64 * 1024;

/// `logs` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Go on with what comes, until the sandbox has ended.
    #[arg(short, long)]
    follow: bool,

    /// Only the last lines.
    #[arg(short = 'n', long, value_name = "LINES", visible_alias = "lines")]
    tail: Option<usize>,

    /// What the sandbox's supervisor said, instead of its console.
    #[arg(long)]
    supervisor: bool,
}

/// Shows the log.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    if args.follow && context.settings.is_json {
        let message = "a log that is followed is no JSON document";
        return Err(Failure::new(ErrorKind::InvalidInput, message)
            .hint("leave out either --follow or --json"));
    }
    let sandbox = context.sandbox(&args.name)?;
    let info = sandbox.info()?;
    let logs = if args.supervisor {
        info.supervisor_logs()
    } else {
        info.console_logs()
    };
    // Watched before it is read: what comes in between is told of.
    let changes = match args.follow {
        true => Some(Changes::of(&info.directory).map_err(|error| log_error(&error))?),
        false => None,
    };
    let mut log = Log::read(&logs).map_err(|error| log_error(&error))?;
    let content = match args.tail {
        Some(lines) => last_lines(&log.content, lines),
        None => &log.content,
    };
    let Some(mut changes) = changes else {
        let lines: Vec<String> = text::printable(content)
            .lines()
            .map(str::to_owned)
            .collect();
        return Ok(Report::new(json!({"lines": lines}), shown(content)));
    };
    output::stream(&shown(content))?;
    log.follow(&sandbox, &mut changes).await?;
    Ok(Report::default())
}

fn log_error(error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Host, format!("read the log: {error}"))
}

/// Returns what is written of `content`: on a terminal, nothing that could control it.
fn shown(content: &[u8]) -> Vec<u8> {
    if io::stdout().is_terminal() {
        text::printable(content).into_bytes()
    } else {
        content.to_owned()
    }
}

fn last_lines(content: &[u8], lines: usize) -> &[u8] {
    let end = content.strip_suffix(b"\n").unwrap_or(content);
    let breaks = end
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1) {
        None => &[],
        Some(before) => match breaks.map(|(at, _)| at).nth(before) {
            Some(at) => &content[at + 1..],
            None => content,
        },
    }
}

/// A log as far as it was read.
struct Log {
    path: PathBuf,
    /// The newest file of the log, once there is one.
    file: Option<File>,
    content: Vec<u8>,
}

impl Log {
    /// Reads the files of a log, oldest first.
    fn read(paths: &[PathBuf]) -> io::Result<Self> {
        let mut log = Self {
            path: PathBuf::new(),
            file: None,
            content: Vec::new(),
        };
        for path in paths {
            log.path.clone_from(path);
            log.file = open_if_there(path)?;
            if let Some(file) = &mut log.file {
                file.read_to_end(&mut log.content)?;
            }
        }
        Ok(log)
    }

    /// Writes what comes until the sandbox has ended.
    async fn follow(&mut self, sandbox: &Sandbox, changes: &mut Changes) -> Result<(), Failure> {
        loop {
            let has_ended = match sandbox.info() {
                Ok(info) => !info.state.is_active(),
                Err(StoreError::NotFound { .. }) => true,
                Err(error) => return Err(error.into()),
            };
            self.write_news().map_err(|error| log_error(&error))??;
            if has_ended {
                return Ok(());
            }
            changes.next().await.map_err(|error| log_error(&error))?;
        }
    }

    /// Writes what has come since the last look.
    fn write_news(&mut self) -> io::Result<Result<(), Failure>> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if self.file.is_none() {
                self.file = open_if_there(&self.path)?;
            }
            let Some(file) = &mut self.file else {
                return Ok(Ok(()));
            };
            let length = file.read(&mut piece)?;
            if length > 0 {
                if let Err(failure) = output::stream(&shown(&piece[..length])) {
                    return Ok(Err(failure));
                }
            } else if is_at(file, &self.path) {
                return Ok(Ok(()));
            } else {
                // Read to its end, and no longer the newest.
                self.file = None;
            }
        }
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether `file` is what `path` names, or nothing else is.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => true,
    }
}

/// What the kernel tells of a directory.
struct Changes {
    queue: tokio::fs::File,
}

impl Changes {
    fn of(directory: &Path) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC)?;
        let watched = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        inotify::add_watch(&queue, directory, watched)?;
        Ok(Self {
            queue: File::from(queue).into(),
        })
    }

    /// Waits until something has changed. What it was, a look at the directory tells.
    async fn next(&mut self) -> io::Result<()> {
        /// Room for some events of the longest name (inotify(7)).
        const EVENTS_BYTES: usize = 4096;

        let _length = self.queue.read(&mut [0; EVENTS_BYTES]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_count_an_unfinished_one() {
        let content = b"one\ntwo\nthree\n";
        assert_eq!(last_lines(content, 0), b"");
        assert_eq!(last_lines(content, 2), b"two\nthree\n");
        assert_eq!(last_lines(content, 9), content);
        assert_eq!(last_lines(b"one\ntw", 1), b"tw");
        assert_eq!(last_lines(b"", 1), b"");
    }
}
