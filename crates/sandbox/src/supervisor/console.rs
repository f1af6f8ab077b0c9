//! What the guest writes to its console: kept in a bounded log, and watched for a panic.

use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::task::AbortOnDropHandle;

use crate::bounded_log::BoundedLog;
use crate::text::Tail;

/// Lines kept in memory for error messages: a kernel's panic report is 30 to 50 lines.
const TAIL_LINES: usize = 60;

/// How a Linux kernel's last words begin (kernel/panic.c).
const PANIC_WORDS: &str = "Kernel panic - not syncing:";

/// How long what a machine wrote may take to be read once it has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// The console's last lines, once it has ended.
#[derive(Debug)]
pub(super) struct ConsoleTail {
    reader: AbortOnDropHandle<Tail>,
}

impl ConsoleTail {
    /// Returns the last lines, and the reason of a kernel whose last words were among all of them.
    /// Call when the machine has ended.
    pub(super) async fn finish(&mut self) -> (Vec<String>, Option<String>) {
        match tokio::time::timeout(PATIENCE, &mut self.reader).await {
            Ok(Ok(tail)) => (tail.lines(), tail.seen().map(str::to_owned)),
            _ => (Vec::new(), None),
        }
    }
}

/// Reads `console` to its end into `path` and remembers its last lines.
pub(super) fn keep(console: Box<dyn AsyncRead + Send + Unpin>, path: PathBuf) -> ConsoleTail {
    ConsoleTail {
        reader: AbortOnDropHandle::new(tokio::spawn(read(console, path))),
    }
}

async fn read(mut console: Box<dyn AsyncRead + Send + Unpin>, path: PathBuf) -> Tail {
    let mut log = match BoundedLog::create(path) {
        Ok(log) => Some(log),
        Err(error) => {
            tracing::warn!(%error, "console not kept");
            None
        }
    };
    let mut tail = Tail::new(TAIL_LINES).watching(PANIC_WORDS);
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    loop {
        buffer.clear();
        match console.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return tail,
            Ok(_) => {}
        }
        tail.push(&buffer);
        if let Some(kept) = &mut log
            && let Err(error) = kept.write(&buffer)
        {
            // A full disk must not stop the guest, and is not told a thousand times.
            tracing::warn!(%error, "console no longer kept");
            log = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bounded_log::{MAX_LOG_BYTES, before};

    #[tokio::test]
    async fn flood_keeps_the_latest_in_two_bounded_files() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("console.log");
        let (reader, mut guest) = tokio::io::duplex(64 * 1024);
        let mut tail = keep(Box::new(reader), path.clone());
        let line = [b'x'; 1023];
        for _ in 0..3 * 1024 {
            let mut line = line.to_vec();
            line.push(b'\n');
            tokio::io::AsyncWriteExt::write_all(&mut guest, &line)
                .await
                .expect("write");
        }
        tokio::io::AsyncWriteExt::write_all(&mut guest, b"the end")
            .await
            .expect("write");
        drop(guest);

        assert_eq!(
            tail.finish().await.0.last().map(String::as_str),
            Some("the end")
        );
        let size = |path: &PathBuf| fs::metadata(path).expect("kept").len();
        let slack = 64 * 1024;
        assert!(size(&path) <= MAX_LOG_BYTES + slack);
        assert!(size(&before(&path)) <= MAX_LOG_BYTES + slack);
        assert!(fs::read(&path).expect("kept").ends_with(b"the end"));
    }
}
