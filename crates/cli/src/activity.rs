//! What people see on standard error while something takes long.
//!
//! On a terminal: one line that moves, shown only when a second has passed, and a line that stays
//! for each step that took long. Elsewhere: a line when a step begins, and when a long one ends.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smolvm_image::Progress;

use crate::output::{self, Colour};
use crate::text;

/// What takes less than this is not worth a line.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the line moves.
const TICK: Duration = Duration::from_millis(120);

/// Something that may take long. Its line is gone when this is dropped.
pub(crate) struct Activity {
    reporter: Arc<Reporter>,
    /// The thread that reveals the line, and the sender whose end tells it not to.
    reveal: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Hears of steps, from any thread.
struct Reporter {
    label: String,
    /// The moving line, on a terminal.
    line: Option<ProgressBar>,
    /// What is being done, and since when.
    step: Mutex<Step>,
}

/// What is being done.
struct Step {
    name: String,
    started: Instant,
}

impl Activity {
    /// Begins an activity that people know as `label`.
    pub(crate) fn start(label: &str, is_terminal: bool) -> Self {
        let line = is_terminal.then(|| {
            let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            line.set_style(spinner());
            line.set_message(label.to_owned());
            line
        });
        let reveal = line.clone().and_then(reveal_later);
        Self {
            reporter: Arc::new(Reporter {
                label: label.to_owned(),
                line,
                step: Mutex::new(Step::begun(label)),
            }),
            reveal,
        }
    }

    /// Returns what the library reports to.
    pub(crate) fn progress(&self) -> Arc<dyn Progress> {
        self.reporter.clone()
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.reveal.take() {
            drop(sender);
            // It only waits for the sender; that it panicked would have been shown.
            let _shown = thread.join();
        }
        if let Some(line) = &self.reporter.line {
            line.finish_and_clear();
        }
    }
}

fn reveal_later(line: ProgressBar) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (sender, ended) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("progress".to_owned())
        .spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                line.set_draw_target(ProgressDrawTarget::stderr());
                line.enable_steady_tick(TICK);
            }
        });
    // Without the thread nothing is shown, and nothing else is lost.
    thread.ok().map(|thread| (sender, thread))
}

fn spinner() -> ProgressStyle {
    style("{spinner:.cyan} {msg} {elapsed:.dim}")
}

fn bar() -> ProgressStyle {
    style("{spinner:.cyan} {msg} {bar:24.cyan/dim} {bytes}/{total_bytes}").progress_chars("━━─")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this module are well-formed")
}

impl Progress for Reporter {
    fn started(&self, step: &str, total: Option<u64>) {
        *self.step() = Step::begun(step);
        match (&self.line, total) {
            (None, _) => output::error_line(&format!("{step} ...")),
            (Some(line), Some(total)) => {
                line.set_style(bar());
                line.set_length(total);
                line.set_position(0);
                line.set_message(step.to_owned());
            }
            (Some(line), None) => {
                line.set_style(spinner());
                line.set_message(step.to_owned());
            }
        }
    }

    fn advanced(&self, done: u64) {
        if let Some(line) = &self.line {
            line.set_position(done);
        }
    }

    fn detail(&self, detail: &str) {
        if let Some(line) = &self.line {
            line.set_message(format!("{}: {detail}", self.step().name));
        }
    }

    fn finished(&self, step: &str) {
        let elapsed = self.step().started.elapsed();
        let done = format!("{step}: done in {}", text::duration(elapsed));
        match &self.line {
            Some(line) => {
                if elapsed >= PATIENCE {
                    line.println(output::paint(true, Colour::Dim, &done));
                }
                line.set_style(spinner());
                line.set_message(self.label.clone());
            }
            None if elapsed >= PATIENCE => output::error_line(&done),
            None => {}
        }
    }

    fn warning(&self, message: &str) {
        let warning = format!("warning: {message}");
        match &self.line {
            Some(line) => line.suspend(|| output::error_line(&warning)),
            None => output::error_line(&warning),
        }
    }
}

impl Reporter {
    fn step(&self) -> std::sync::MutexGuard<'_, Step> {
        // A step is whole whatever its writer did.
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Step {
    fn begun(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            started: Instant::now(),
        }
    }
}
