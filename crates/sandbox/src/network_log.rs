//! What happened on a sandbox's network, as records of its log.

use crate::log_files::{LogError, LogFiles};
use crate::{NetworkRecord, Sandbox};

/// The log of a sandbox's network as far as it was read.
#[derive(Debug)]
pub struct NetworkLog {
    files: LogFiles,
    lines: Lines,
}

impl NetworkLog {
    /// Waits for more records, and returns them; nothing when all are read and the sandbox has
    /// ended.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<NetworkRecord>>, LogError> {
        while let Some(piece) = self.files.next().await? {
            let records = self.lines.push(&piece);
            if !records.is_empty() {
                return Ok(Some(records));
            }
        }
        Ok(None)
    }
}

impl Sandbox {
    /// Returns what is in the log of the sandbox's network, and what can wait for more.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn network_log(&self) -> Result<(Vec<NetworkRecord>, NetworkLog), LogError> {
        let (content, files) = self.read_log(&self.info()?.network_logs())?;
        let mut lines = Lines::default();
        let records = lines.push(&content);
        Ok((records, NetworkLog { files, lines }))
    }
}

/// The records of a log that comes in pieces.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next piece, and returns the records that end in it. A line that is none, such as
    /// one that was being written when the host lost power, is passed over.
    fn push(&mut self, piece: &[u8]) -> Vec<NetworkRecord> {
        self.begun.extend_from_slice(piece);
        let Some(end) = self.begun.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.begun.split_off(end + 1);
        let lines = std::mem::replace(&mut self.begun, rest);
        lines
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_whole_however_the_log_is_cut() {
        let line = r#"{"sequence":4,"time_unix_ms":9,"event":{"type":"lost","events":2}}"#;
        let log = format!("{line}\nno record\n{line}\n");
        for cut in 0..log.len() {
            let mut lines = Lines::default();
            let (first, second) = log.as_bytes().split_at(cut);
            let records = [lines.push(first), lines.push(second)].concat();
            assert_eq!(records.len(), 2, "cut at {cut}");
            assert_eq!(records[0].sequence, 4);
        }
    }
}
