//! A sandbox in the lab.

use serde_json::Value;

use super::Lab;
use crate::Outcome;

/// Where a guest has the certificate of the lab's authority.
const AUTHORITY: &str = "/tmp/authority.pem";

/// A running sandbox of the lab.
#[derive(Debug)]
pub struct Guest<'a> {
    lab: &'a Lab,
    name: &'a str,
}

impl Lab {
    /// Starts the sandbox `name` with these options of `create`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn guest<'a>(&'a self, name: &'a str, options: &[&str]) -> Guest<'a> {
        self.host.start(name, options);
        let guest = Guest { lab: self, name };
        let authority = std::fs::read(self.authority()).expect("written");
        let keep = format!("cat >{AUTHORITY}");
        let _kept = guest.sh_with_input(&keep, &authority).ok();
        guest
    }
}

impl Guest<'_> {
    /// Runs a shell line.
    #[must_use]
    pub fn sh(&self, line: &str) -> Outcome {
        self.sh_with_input(line, b"")
    }

    /// Runs a shell line with `input` on its standard input. `$CA` is the certificate of the lab's
    /// authority.
    #[must_use]
    pub fn sh_with_input(&self, line: &str, input: &[u8]) -> Outcome {
        let line = format!("export CA={AUTHORITY}; {line}");
        let arguments = ["exec", "--interactive", self.name, "--", "sh", "-c", &line];
        self.lab.host.smolvm_with_input(&arguments, input)
    }

    /// Runs a Python program, and returns the JSON document that it prints.
    ///
    /// # Panics
    ///
    /// When it fails or prints something else.
    #[must_use]
    pub fn python(&self, program: &str, arguments: &[&str]) -> Value {
        let command = [
            &["exec", self.name, "--", "python3", "-c", program],
            arguments,
        ]
        .concat();
        self.lab.host.smolvm(&command).ok().json()
    }

    /// Runs `smolvm network` with this sub-command on the sandbox, and these arguments.
    #[must_use]
    pub fn network(&self, command: &str, arguments: &[&str]) -> Outcome {
        let words = [&["network", command, self.name], arguments].concat();
        self.lab.host.smolvm(&words)
    }

    /// Returns the records of the sandbox's network log, oldest first.
    ///
    /// # Panics
    ///
    /// When there is no such log.
    #[must_use]
    pub fn records(&self) -> Vec<Value> {
        let document = self.network("log", &["--json"]).ok().json();
        document["data"]["events"]
            .as_array()
            .expect("a list")
            .clone()
    }

    /// Returns the events of the records.
    ///
    /// # Panics
    ///
    /// As [`Guest::records`].
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        let records = self.records();
        records
            .iter()
            .map(|record| record["event"].clone())
            .collect()
    }

    /// Waits until `is_so` holds.
    ///
    /// # Panics
    ///
    /// As [`Host::wait_until`](crate::Host::wait_until).
    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        self.lab.host.wait_until(what, |_| is_so());
    }
}
