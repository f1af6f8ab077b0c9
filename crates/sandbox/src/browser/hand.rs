//! The hand at a page: where its pointer is, what it presses, and the steps it takes.
//!
//! ```text
//!   action --> Vec<Step> --grip--> Hand (pointer, buttons) + Page (connection) --> CDP Input
//! ```
//!
//! A connection stays from action to action, because Chromium ends a drag with it and a dialog is
//! answered on it. It is given up when another page is the one that was used last, and when an
//! action fails in the middle.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::cdp::{Page, PageError, last_used};
use super::dialogs;
use super::input::{Button, Point};
use crate::Sandbox;

/// How long a key is held until it repeats, and then between two times: X.Org's defaults.
const REPEAT_DELAY: Duration = Duration::from_millis(660);
const REPEAT_INTERVAL: Duration = Duration::from_millis(40);

/// How often the page that was used last is looked for: a tab that closes is listed for a moment.
const MAX_ATTEMPTS: u8 = 20;

/// Longest address of a page that is kept, in characters; Chromium shows no longer ones.
const MAX_URL_CHARS: usize = 32_768;

/// Fulfilled when the page has drawn twice, as it does after it was scrolled; a page that nobody
/// sees does not draw.
const DRAWN: &str = "new Promise(done => { \
    requestAnimationFrame(() => requestAnimationFrame(() => done())); setTimeout(done, 2000) })";

/// One thing that a hand does.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Moves the pointer.
    Move(Point),
    /// Moves the pointer to where it is: what is dragged learns where it would be dropped.
    Stay,
    /// Presses a button; the number counts the presses in a row.
    Press(Button, u8),
    /// Lets go of a button.
    Release(Button, u8),
    /// Turns the wheel by CSS pixels, right and down.
    Wheel(f64, f64),
    /// Presses keys, by their events.
    KeysDown(Vec<Value>),
    /// Lets go of keys, by their events.
    KeysUp(Vec<Value>),
    /// Keeps pressing, and repeats the event if there is one.
    Hold(Duration, Option<Value>),
    /// Puts text in as an input method does.
    Insert(String),
    /// Waits until the page has drawn.
    Settle,
}

impl Step {
    const fn is_release(&self) -> bool {
        matches!(self, Self::Release(..) | Self::KeysUp(_) | Self::Settle)
    }
}

/// The state of a hand between its actions.
#[derive(Debug, Default)]
pub(super) struct Hand {
    pointer: Point,
    /// Bits of the buttons that are down.
    buttons: u8,
    /// The page and its connection, while no action has them.
    page: Option<(String, Page)>,
}

impl Hand {
    /// Returns where the pointer is.
    pub(super) const fn pointer(&self) -> (f64, f64) {
        (self.pointer.x, self.pointer.y)
    }
}

/// A hand at the page that was used last: one action's at a time.
pub(super) struct Grip<'a> {
    hand: MutexGuard<'a, Hand>,
    target: String,
    pub(super) page: Page,
    /// The page's address.
    pub(super) url: String,
}

impl<'a> Grip<'a> {
    /// Takes hold of the page that was used last, and learns whether it shows a dialog.
    pub(super) async fn take(sandbox: &Sandbox, hand: &'a Mutex<Hand>) -> Result<Self, PageError> {
        let mut hand = hand.lock().await;
        let mut failure = PageError::NoPage;
        for _ in 0..MAX_ATTEMPTS {
            let kept = hand.page.take();
            let target = last_used(sandbox).await?;
            let greeted = match kept {
                Some((kept_target, page)) if kept_target == target => greet(page).await,
                _ => {
                    hand.buttons = 0;
                    connect(sandbox, &target).await
                }
            };
            match greeted {
                Ok((page, url)) => {
                    return Ok(Self {
                        hand,
                        target,
                        page,
                        url,
                    });
                }
                // The tab was being closed, or Chromium has been started again: look once more.
                Err(error @ (PageError::Connection(_) | PageError::NoAnswer { .. })) => {
                    failure = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    /// Ends an action. The connection stays, unless it is what failed.
    pub(super) fn end<T>(mut self, outcome: Result<T, PageError>) -> Result<T, PageError> {
        let is_usable = match &outcome {
            Ok(_)
            | Err(PageError::Dialog(_) | PageError::Refused { .. } | PageError::Load { .. }) => {
                true
            }
            Err(_) => false,
        };
        if is_usable && !self.page.is_gone() {
            self.hand.page = Some((self.target, self.page));
        }
        outcome
    }

    /// Answers the dialog that the page shows.
    pub(super) async fn answer_dialog(
        &mut self,
        sandbox: &Sandbox,
        is_accepted: bool,
        text: Option<&str>,
    ) -> Result<(), PageError> {
        if self.page.is_dialog_older() {
            dialogs::answer(sandbox, &self.target, is_accepted, text).await?;
            self.page.forget_dialog();
            return Ok(());
        }
        self.page.answer_dialog(is_accepted, text).await
    }

    /// Takes steps, with the modifiers down. A dialog that opens ends them: nothing is left to do
    /// but to let go, or the action has failed.
    pub(super) async fn perform(
        &mut self,
        modifiers: u8,
        steps: Vec<Step>,
    ) -> Result<(), PageError> {
        let mut steps = steps.into_iter();
        while let Some(step) = steps.next() {
            self.take_step(modifiers, step).await?;
            if let Some(dialog) = self.page.dialog() {
                return match steps.all(|step| step.is_release()) {
                    true => Ok(()),
                    false => Err(PageError::Dialog(dialog.clone())),
                };
            }
            if self.page.is_gone() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn take_step(&mut self, modifiers: u8, step: Step) -> Result<(), PageError> {
        let event = match step {
            Step::Move(point) => {
                self.hand.pointer = point;
                self.mouse("mouseMoved", None, modifiers)
            }
            Step::Stay => self.mouse("mouseMoved", None, modifiers),
            Step::Press(button, clicks) => {
                self.hand.buttons |= button.bit();
                let mut event = self.mouse("mousePressed", Some(button), modifiers);
                event["clickCount"] = json!(clicks);
                event
            }
            Step::Release(button, clicks) => {
                self.hand.buttons &= !button.bit();
                let mut event = self.mouse("mouseReleased", Some(button), modifiers);
                event["clickCount"] = json!(clicks);
                event
            }
            Step::Wheel(right, down) => {
                let mut event = self.mouse("mouseWheel", None, modifiers);
                event["deltaX"] = json!(right);
                event["deltaY"] = json!(down);
                event
            }
            Step::KeysDown(events) | Step::KeysUp(events) => {
                return self.page.input("Input.dispatchKeyEvent", events).await;
            }
            Step::Settle => return self.settle().await,
            Step::Hold(duration, event) => return self.hold(duration, event).await,
            Step::Insert(text) => {
                let text = vec![json!({"text": text})];
                return self.page.input("Input.insertText", text).await;
            }
        };
        self.page
            .input("Input.dispatchMouseEvent", vec![event])
            .await
    }

    /// Returns an event of the mouse at its pointer.
    fn mouse(&self, kind: &str, button: Option<Button>, modifiers: u8) -> Value {
        let Point { x, y } = self.hand.pointer;
        let buttons = self.hand.buttons;
        // A move names the button that drags.
        let button = button.or_else(|| {
            Button::ALL
                .into_iter()
                .find(|held| buttons & held.bit() != 0)
        });
        json!({
            "type": kind,
            "x": x,
            "y": y,
            "button": button.map_or("none", Button::as_str),
            "buttons": buttons,
            "modifiers": modifiers,
        })
    }

    /// Waits until the page has drawn, unless it does something else.
    async fn settle(&mut self) -> Result<(), PageError> {
        let wait = json!({"expression": DRAWN, "awaitPromise": true});
        match self.page.call("Runtime.evaluate", wait).await {
            Ok(_) | Err(PageError::Refused { .. } | PageError::Dialog(_)) => Ok(()),
            Err(_) if self.page.is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keeps pressing for so long.
    async fn hold(&mut self, duration: Duration, repeated: Option<Value>) -> Result<(), PageError> {
        let end = Instant::now() + duration;
        let mut pause = REPEAT_DELAY;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(event) = repeated.as_ref().filter(|_| pause < left) else {
                tokio::time::sleep(left).await;
                return Ok(());
            };
            tokio::time::sleep(pause).await;
            self.page
                .input("Input.dispatchKeyEvent", vec![event.clone()])
                .await?;
            if self.page.dialog().is_some() || self.page.is_gone() {
                return Ok(());
            }
            pause = REPEAT_INTERVAL;
        }
    }
}

/// Connects to a page, which from then on tells its dialogs; what it showed before is asked for.
async fn connect(sandbox: &Sandbox, target: &str) -> Result<(Page, String), PageError> {
    let mut page = Page::connect(sandbox, target).await?;
    page.watch_dialogs().await?;
    let (mut page, url) = greet(page).await?;
    if let Some(dialog) = dialogs::open(sandbox, target).await? {
        page.learn_dialog(dialog);
    }
    Ok((page, url))
}

/// Asks a page where it is, whatever it does, and thereby hears what it has told meanwhile.
async fn greet(mut page: Page) -> Result<(Page, String), PageError> {
    let known = page.ask("Target.getTargetInfo", json!({})).await?;
    let url = known["targetInfo"]["url"].as_str().unwrap_or_default();
    let url = crate::text::excerpt(url, MAX_URL_CHARS);
    Ok((page, url))
}
