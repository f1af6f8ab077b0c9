//! An internet of a test's own, and a host in it on which `smolvm` runs. Nothing else is reached.
//!
//! ```text
//!   the test      the host: user, mount and network     the internet: a network namespace
//!   ----------    ------------------------------------  -------------------------------------------
//!    Lab -- nsenter --> smolvm, supervisor, gateway       servers of tests/lab/internet
//!    |  |             lo   127.0.0.1, ::1   (:8080)       every address: HTTP :80 :8080, HTTPS :443
//!    |  |             lab  198.51.100.1     (:8080)         :8443 :853, TCP echo :7 and others
//!    |  |                  2001:db8:1::1  <-- veth -->    inet  198.51.100.254, 2001:db8:1::fe
//!    |  |             /etc/resolv.conf: 203.0.113.53      lo    203.0.113.0/24, 2001:db8:2::/64 and
//!    |  |                                                       10.0.0.0/8, 169.254.0.0/16, ...
//!    |  +-- zone.json ------------------------------->    203.0.113.53 and .54: DNS
//!    +----- internet.jsonl, host.jsonl <--------------    what has arrived where
//! ```
//!
//! Addresses are of the ranges for documentation (RFC 5737, RFC 3849), which no policy protects;
//! and of those that every policy does, so that what is denied is there and would have answered.
//!
//! The servers end with their standard input, which the test holds: nothing is left, however the
//! test ends.

mod certificates;
mod guest;
mod names;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

use crate::{Host, Outcome, finish, wait};
pub use guest::Guest;
use names::Zone;

/// The resolver of the lab's host.
pub const RESOLVER: &str = "203.0.113.53";

/// A resolver that nobody is told of. It has the same answers.
pub const OTHER_RESOLVER: &str = "203.0.113.54";

/// Address of the web server, which has many names.
pub const WEB: &str = "203.0.113.10";

/// Address at which datagrams are echoed, and the same of IPv6.
pub const ECHO: &str = "203.0.113.20";
/// See [`ECHO`].
pub const ECHO_V6: &str = "2001:db8:2::20";

/// An address from which nothing ever comes back.
pub const SILENT: &str = "203.0.113.200";

/// The host's own address in the lab, where it serves HTTP at port 8080, as on its loopback.
pub const HOST: &str = "198.51.100.1";

/// Servers that are ready one after another: the internet's and the host's.
const SERVERS: usize = 2;

/// The lab.
#[derive(Debug)]
pub struct Lab {
    /// The host, with its `smolvm`. Goes first: its sandboxes still have a network then.
    pub host: Host,
    namespaces: Namespaces,
    zone: Zone,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// Returns a lab whose servers answer.
    ///
    /// # Panics
    ///
    /// When this machine lets nobody make namespaces, or lacks `ip`, `python3` or util-linux.
    #[must_use]
    pub fn new() -> Self {
        let host = Host::new();
        let directory = host.path().join("lab");
        fs::create_dir_all(directory.join("site")).expect("directory");
        fs::write(
            directory.join("resolv.conf"),
            format!("nameserver {RESOLVER}\n"),
        )
        .expect("written");
        certificates::write(&directory);
        let zone = Zone::new(directory.join("zone.json"));
        let namespaces = Namespaces::new(&directory);
        Self {
            host: host.started_by(namespaces.entrance()),
            namespaces,
            zone,
        }
    }

    /// Runs a program on the lab's host.
    ///
    /// # Panics
    ///
    /// As [`Host::smolvm`].
    #[must_use]
    pub fn run(&self, command: &[&str]) -> Outcome {
        let mut words = self.namespaces.entrance();
        words.extend(command.iter().map(OsString::from));
        let child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        finish(child.expect("util-linux is installed"), b"")
    }

    /// Gives a name these addresses, which every question for it is answered with.
    pub fn name(&self, name: &str, addresses: &[&str]) {
        self.zone.set(name, &[addresses], None);
    }

    /// Gives a name several lists of addresses; each question of one type has the next one's.
    pub fn name_in_turn(&self, name: &str, turns: &[&[&str]]) {
        self.zone.set(name, turns, None);
    }

    /// Makes a name the alias of another.
    pub fn alias(&self, name: &str, target: &str) {
        self.zone.set(name, &[], Some(target));
    }

    /// Returns the file with the authority's certificate, by which the lab's servers are known.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory().join(certificates::AUTHORITY)
    }

    /// Returns the directory whose files `http://NAME/site/` has.
    #[must_use]
    pub fn site(&self) -> PathBuf {
        self.directory().join("site")
    }

    /// Returns what has arrived at the servers of the internet, as `tests/lab/internet/journal.py`
    /// tells it.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Value> {
        lines(&self.directory().join("internet.jsonl"))
    }

    /// Returns what has arrived at the server of the host.
    #[must_use]
    pub fn arrivals_at_host(&self) -> Vec<Value> {
        lines(&self.directory().join("host.jsonl"))
    }

    fn directory(&self) -> PathBuf {
        self.host.path().join("lab")
    }
}

/// Returns the JSON documents of a file, one a line.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a journal");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The lab's namespaces, and the processes that serve in them.
#[derive(Debug)]
struct Namespaces {
    child: Child,
    /// While this is open, they live.
    life: Option<ChildStdin>,
    has_users: bool,
}

impl Namespaces {
    fn new(directory: &Path) -> Self {
        let has_users = may_make_users();
        let mut command = Command::new("unshare");
        if has_users {
            command.args(["--user", "--map-root-user"]);
        }
        let mut child = command
            .args(["--net", "--mount", "--", "sh", "-eu"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/lab.sh"))
            // Not as an argument, by which a host's processes are found.
            .env("LAB", directory)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is installed");
        let life = child.stdin.take();
        let words = BufReader::new(child.stdout.take().expect("piped"));
        let ready = words.lines().map_while(Result::ok).take(SERVERS).count();
        let namespaces = Self {
            child,
            life,
            has_users,
        };
        assert_eq!(ready, SERVERS, "the lab's servers have not started");
        namespaces
    }

    /// Returns the words before a command that run it on the lab's host.
    fn entrance(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["nsenter", "--target"].map(OsString::from).into();
        words.push(self.child.id().to_string().into());
        if self.has_users {
            words.extend(["--user", "--preserve-credentials"].map(OsString::from));
        }
        words.extend(["--net", "--mount", "--"].map(OsString::from));
        words
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        drop(self.life.take());
        let code = wait(&mut self.child);
        assert!(
            code == 0 || std::thread::panicking(),
            "the lab's servers failed: {code}"
        );
    }
}

/// Tells whether this user may make user namespaces; root needs none.
fn may_make_users() -> bool {
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .stderr(Stdio::null())
        .status();
    tried.expect("util-linux is installed").success()
}
