//! The guest's side of a session: its launcher, which is a job, and what it is told and asked.
//!
//! The launcher itself is part of the image (`crates/image/src/root_image/browser/session.py`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_bytes::ByteBuf;
use smolvm_network::Mode;
use smolvm_protocol::message::{Command, Exec, JobStatus, StartJob};

use super::config::BrowserMode;
use super::record::BrowserRecord;
use crate::text::Tail;
use crate::{AccessError, AtEnd, EndReason, ExecError, JobEvent, Output, Sandbox};

/// The launcher's name as a job.
pub(super) const JOB: &str = "browser-session";

const PROGRAM: &str = "/usr/lib/smolvm/browser-session";

/// Output of the launcher that is kept: some lines a minute at most.
const BUFFER_BYTES: u32 = 256 * 1024;

/// How long the launcher may take to be ready: its own patience, and some for a busy host.
pub(super) const READY_PATIENCE: Duration = Duration::from_secs(330);

/// How long a guest may take to end its browser and to pack what the session leaves.
const END_PATIENCE_MS: u64 = 120_000;

/// Lines of the launcher and of Chromium that a failure repeats.
const FAILURE_LINES: usize = 20;

/// Packs what the session leaves, as a gzipped archive on standard output. Some of it changes
/// while it is read, which tar(1) says with exit code 1.
const PACK: &str = "\
cd / && set -- \"opt/smolvm-browser/artifacts/$1\" \"opt/smolvm-browser/downloads/$1\" \
    var/log/smolvm-browser
for path; do shift; test -e \"$path\" && set -- \"$@\" \"$path\"; done
tar -cz --exclude='*.crdownload' --warning=no-file-changed -- \"$@\" || test $? -eq 1
";

/// Ends the launcher as its own signal handler does, and waits for it: the profile is written,
/// the video complete. It holds the lock file as long as it lives.
const END: &str = "\
pkill -TERM -o -f ^/usr/bin/python3./usr/lib/smolvm/browser-session
flock /run/smolvm-browser.lock true
sync
";

/// Last lines of all that the session's programs have written.
const TAIL: &str = "cd /var/log/smolvm-browser && exec tail -v -n \"$1\" -- *.log";

/// What the launcher says when the browser takes commands.
const READY: &str = "ready";

/// Last lines of the launcher that say how a session is.
const NOTES: usize = 6;

/// How a session is, as its launcher says.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Its exit code, if it has ended.
    pub(super) exit: Option<i32>,
    /// What it has said but that the browser is ready: what went wrong, and what became of it.
    pub(super) notes: Vec<String>,
}

impl Report {
    /// Whether Chromium has ended and is not there again.
    pub(super) fn is_restarting(&self) -> bool {
        let of_chromium = self.notes.iter().rev();
        let last = of_chromium.map(String::as_str).find_map(|note| match note {
            "restarted chromium" => Some(false),
            note => note.starts_with("ended chromium ").then_some(true),
        });
        self.exit.is_none() && last.unwrap_or(false)
    }
}

/// How the launcher fared.
pub(super) enum Readiness {
    /// The browser takes commands.
    Ready,
    /// It was told to end.
    Stopped,
    /// The session could not be started, and why.
    Failed(String),
}

/// Starts the launcher.
pub(super) async fn start(
    sandbox: &Sandbox,
    record: &BrowserRecord,
    env_vars: &BTreeMap<String, String>,
) -> Result<(), ExecError> {
    let mut exec = command(vec![PROGRAM.into()]);
    exec.environment = environment(record, env_vars);
    let job = StartJob {
        id: JOB.to_owned(),
        exec,
        buffer_bytes: BUFFER_BYTES,
    };
    sandbox.start_job(job).await?;
    Ok(())
}

fn environment(
    record: &BrowserRecord,
    env_vars: &BTreeMap<String, String>,
) -> Vec<(ByteBuf, ByteBuf)> {
    let config = &record.config;
    let switch = |is_on: bool| u8::from(is_on).to_string();
    let own = [
        ("MODE", config.mode.as_str().to_owned()),
        ("WIDTH", config.width.to_string()),
        ("HEIGHT", config.height.to_string()),
        ("RECORD", switch(config.record_video)),
        ("DOWNLOADS", switch(config.allow_downloads)),
        ("RESTRICTED", switch(config.network.mode() != Mode::Open)),
        (
            "PROFILE",
            config.profile_name(&record.session_id).to_string(),
        ),
        ("ID", record.session_id.to_string()),
        ("TOKEN", record.token.clone()),
    ];
    let own = own.map(|(name, value)| (format!("SMOLVM_BROWSER_{name}"), value));
    // The launcher's own last, so that nothing takes their place.
    let asked = env_vars.clone().into_iter();
    asked
        .chain(own)
        .map(|(name, value)| (name.into_bytes().into(), value.into_bytes().into()))
        .collect()
}

/// Waits until the launcher has said that the browser is ready, or that it will not be.
pub(super) async fn await_ready(sandbox: &Sandbox) -> Result<Readiness, AccessError> {
    let mut output = sandbox.attach_job(JOB, 0).await?.output;
    let mut said = Tail::new(FAILURE_LINES).watching(READY);
    loop {
        match output.next().await? {
            JobEvent::Output(Output::Stdout(bytes)) => {
                said.push(&bytes);
                if said.seen().is_some() {
                    return Ok(Readiness::Ready);
                }
            }
            JobEvent::Output(Output::Stderr(bytes)) => said.push(&bytes),
            // It ends like that only when it is told to.
            JobEvent::Output(Output::End(end)) if end.reason.exit_code() == 0 => {
                return Ok(Readiness::Stopped);
            }
            JobEvent::Output(Output::End(_)) => {
                return Ok(Readiness::Failed(said.lines().join("; ")));
            }
            JobEvent::Lost(_) => {}
        }
    }
}

/// Returns how the session is, as its launcher says.
pub(super) async fn report(sandbox: &Sandbox) -> Result<Report, AccessError> {
    let jobs = sandbox.list_jobs().await?;
    let Some(job) = jobs.into_iter().find(|job| job.id == JOB) else {
        return Ok(Report::default());
    };
    // Of most sessions there is nothing to tell, and no need to ask again.
    let notes = if job.written > READY.len() as u64 + 1 {
        notes(sandbox, &job).await?
    } else {
        Vec::new()
    };
    let exit = job
        .exit
        .map(|exit| EndReason::Guest(exit.reason).exit_code());
    Ok(Report { exit, notes })
}

/// Reads what the launcher has said so far.
async fn notes(sandbox: &Sandbox, job: &JobStatus) -> Result<Vec<String>, AccessError> {
    let mut output = sandbox.attach_job(JOB, job.oldest).await?.output;
    let mut said = Tail::new(NOTES);
    let mut read = job.oldest;
    while read < job.written {
        read += match output.next().await? {
            JobEvent::Output(Output::Stdout(bytes)) => {
                said.push(&bytes);
                bytes.len() as u64
            }
            JobEvent::Output(Output::Stderr(bytes)) => bytes.len() as u64,
            JobEvent::Output(Output::End(_)) => break,
            JobEvent::Lost(bytes) => bytes,
        };
    }
    let mut notes = said.lines();
    notes.retain(|line| line != READY);
    Ok(notes)
}

/// Returns the command that prints the last lines of the session's logs.
pub(super) fn tail_command(lines: u32) -> Exec {
    shell(TAIL, lines.to_string())
}

/// Returns the command that packs what the session has left so far.
pub(super) fn pack_command(record: &BrowserRecord) -> Exec {
    shell(PACK, record.session_id.to_string())
}

/// Returns what the guest does at the session's end, whoever ends it.
pub(super) fn at_end(record: &BrowserRecord, output: std::path::PathBuf) -> AtEnd {
    let script = format!("{END}{PACK}");
    AtEnd {
        command: ["/bin/sh", "-c", &script, "sh", record.session_id.as_str()]
            .map(str::to_owned)
            .to_vec(),
        patience_ms: END_PATIENCE_MS,
        output,
        // All that its disk can hold.
        max_output_bytes: u64::from(record.config.disk.get()) << 20,
    }
}

/// Returns whether people can watch.
pub(super) fn is_live(record: &BrowserRecord) -> bool {
    record.config.mode == BrowserMode::Live
}

fn shell(script: &str, argument: String) -> Exec {
    command(vec![
        "/bin/sh".into(),
        "-c".into(),
        script.into(),
        "sh".into(),
        argument,
    ])
}

fn command(words: Vec<String>) -> Exec {
    let words = words.into_iter().map(|word| word.into_bytes().into());
    Exec::of(Command::Arguments(words.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::config::{AskedBrowser, BrowserConfig};

    fn record() -> BrowserRecord {
        let config = BrowserConfig::new(&AskedBrowser::default()).expect("legal");
        let id: crate::SandboxId = "one".parse().expect("legal");
        BrowserRecord::new(id.clone(), id, config, 1, "00ff".to_owned())
    }

    #[test]
    fn variables_of_a_user_do_not_replace_the_launchers_own() {
        let forged = BTreeMap::from([("SMOLVM_BROWSER_TOKEN".to_owned(), "mine".to_owned())]);
        let environment = environment(&record(), &forged);
        let mut tokens = environment
            .iter()
            .filter(|(name, _)| *name == b"SMOLVM_BROWSER_TOKEN"[..]);
        assert_eq!(
            tokens.next_back().map(|(_, value)| value.as_ref()),
            Some(&b"00ff"[..])
        );
    }

    #[test]
    fn browser_restarts_from_its_end_until_it_is_there_again() {
        let report = |notes: &[&str], exit| Report {
            exit,
            notes: notes.iter().map(|&note| note.to_owned()).collect(),
        };
        let (ended, back) = ("ended chromium with -9", "restarted chromium");
        assert!(report(&["out of memory: chromium", ended], None).is_restarting());
        assert!(report(&[back, ended, "restarted ffmpeg"], None).is_restarting());
        assert!(!report(&[ended, back], None).is_restarting());
        assert!(!report(&["ended ffmpeg with 1"], None).is_restarting());
        assert!(!report(&[ended, "failed: no disk"], Some(1)).is_restarting());
    }

    #[test]
    fn what_is_there_is_packed_when_something_is_missing() {
        let root = tempfile::tempdir().expect("temporary directory");
        let logs = root.path().join("var/log/smolvm-browser");
        std::fs::create_dir_all(&logs).expect("made");
        std::fs::write(logs.join("chromium.log"), b"up").expect("written");
        let script = PACK.replace("cd /", &format!("cd {}", root.path().display()));
        let packed = std::process::Command::new("/bin/sh")
            .args(["-c", &script, "sh", "one"])
            .output()
            .expect("sh runs");
        assert!(packed.status.success(), "{packed:?}");
        assert_eq!(
            packed.stdout.get(..2),
            Some(&[0x1f, 0x8b][..]),
            "gzip's magic number"
        );
    }
}
