//! A guest with the browser's image, and the launcher in it.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;
use smolvm_tests::{Host, Outcome, wait};

/// Looks at a session from inside.
const PROBE: &str = include_str!("guest/probe.py");

/// A running launcher, and what it says.
pub(super) struct Launcher<'a> {
    host: &'a Host,
    client: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Boots the guest that launchers are started in.
pub(super) fn boot(host: &Host) {
    let options = ["--image", "browser", "--cpus", "2", "--memory", "2G"];
    host.start("box", &options);
}

/// Runs a shell line in the guest.
pub(super) fn sh(host: &Host, line: &str) -> Outcome {
    host.sh("box", line)
}

/// Returns what the probe finds.
pub(super) fn probe(host: &Host, words: &[&str]) -> Value {
    let exec = ["exec", "box", "--", "python3", "-c", PROBE];
    host.smolvm(&[&exec[..], words].concat()).ok().json()
}

impl<'a> Launcher<'a> {
    /// Starts the launcher with the variables `SMOLVM_BROWSER_…`, as the job `session`.
    pub(super) fn start(host: &'a Host, session: &str, variables: &[&str]) -> Self {
        let variables: Vec<String> = [&format!("ID={session}")[..]]
            .iter()
            .chain(variables)
            .flat_map(|variable| ["--env".to_owned(), format!("SMOLVM_BROWSER_{variable}")])
            .collect();
        let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
        let start = ["job", "start", "box", "--job", session];
        let program = ["--", "/usr/lib/smolvm/browser-session"];
        let _started = host
            .smolvm(&[&start[..], &variables, &program].concat())
            .ok();
        let mut client = host
            .command(&["job", "attach", "box", session])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("smolvm");
        let lines = BufReader::new(client.stdout.take().expect("piped")).lines();
        Self {
            host,
            client,
            lines,
        }
    }

    /// Returns the next line that the launcher says.
    pub(super) fn line(&mut self) -> String {
        let line = self.lines.next();
        line.map_or_else(String::new, |line| line.expect("text"))
    }

    /// Tells the launcher to end; returns its exit code and what it said until then.
    pub(super) fn end(mut self) -> (i32, Vec<String>) {
        let launcher = "^/usr/bin/python3 /usr/lib/smolvm/browser-session";
        let _told = sh(self.host, &format!("pkill -TERM -f '{launcher}'")).ok();
        let said = self
            .lines
            .by_ref()
            .map(|line| line.expect("text"))
            .collect();
        (wait(&mut self.client), said)
    }
}
