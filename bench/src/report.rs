//! What the measurements come to, as a table for people.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report is this program's output"
)]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use crate::statistics::Samples;

/// The lines of the report.
#[derive(Debug)]
pub(crate) struct Report {
    engine: String,
    lines: Vec<String>,
    has_broken_promise: bool,
}

impl Report {
    pub(crate) fn new(engine: &str) -> Self {
        Self {
            engine: engine.to_owned(),
            lines: Vec::new(),
            has_broken_promise: false,
        }
    }

    /// Adds a duration with its spread.
    pub(crate) fn row(&mut self, name: &str, samples: &Samples) {
        let [low, median, high] = [25, 50, 75].map(|percent| samples.quantile(percent) * 1e3);
        let count = samples.len();
        self.lines.push(format!(
            "{name:<68} {median:>9.2} ms   (quartiles {low:.2} to {high:.2}, n = {count})"
        ));
    }

    /// Adds how many there are in a second, with their spread, from the time that one takes.
    pub(crate) fn rate(&mut self, name: &str, samples: &Samples, unit: &str) {
        let [low, median, high] = [75, 50, 25].map(|percent| 1.0 / samples.quantile(percent));
        let count = samples.len();
        self.lines.push(format!(
            "{name:<68} {median:>9.2} {unit}   (quartiles {low:.2} to {high:.2}, n = {count})"
        ));
    }

    /// Adds a single value.
    pub(crate) fn value(&mut self, name: &str, value: f64, unit: &str) {
        self.lines.push(format!("{name:<68} {value:>9.2} {unit}"));
    }

    /// Adds a number of things.
    pub(crate) fn count(&mut self, name: &str, count: u64) {
        self.lines.push(format!("{name:<68} {count:>9}"));
    }

    /// Adds a remark.
    pub(crate) fn note(&mut self, text: &str) {
        self.lines.push(format!("  note: {text}"));
    }

    /// Adds a ratio that nothing is promised of.
    pub(crate) fn ratio(&mut self, name: &str, ratio: f64) {
        self.lines.push(format!("  ratio: {name:<59} {ratio:>9.2}"));
    }

    /// Adds a figure that SPECIFICATION.md promises to be at most `limit`.
    pub(crate) fn promise(&mut self, name: &str, value: f64, limit: f64) {
        let is_kept = value <= limit;
        self.has_broken_promise |= !is_kept;
        let verdict = if is_kept { "kept" } else { "BROKEN" };
        self.lines.push(format!(
            "  promise: {name:<57} {value:>9.2}   at most {limit}: {verdict}"
        ));
    }

    /// Returns what the program ends with: a failure when a figure is over its limit.
    pub(crate) const fn exit_code(&self) -> ExitCode {
        if self.has_broken_promise {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    pub(crate) fn print(&self) {
        println!("engine: {}", self.engine);
        for line in &self.lines {
            println!("{line}");
        }
    }
}

/// Prints durations for another program: microseconds, one a line.
pub(crate) fn print_microseconds(durations: &[Duration]) {
    for duration in durations {
        println!("{:.1}", duration.as_secs_f64() * 1e6);
    }
}

/// Says what is being measured.
pub(crate) fn progress(what: &str) {
    eprintln!("measuring {what}");
}

/// Says why nothing could be measured.
pub(crate) fn print_error(error: &dyn Error) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}
