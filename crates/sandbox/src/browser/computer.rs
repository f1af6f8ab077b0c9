//! A page used as a person uses it, with mouse and keyboard: the actions of models that use
//! computers.
//!
//! Everything is in CSS pixels of the page's window and goes to the page that was used last, so to
//! a tab that a click has opened. It works without a display as with one. Chromium's own windows
//! (menus, the list of a `<select>`, dialogs) are in no picture: keys choose in a list, and a
//! dialog is [`Computer::dialog`]. What the guest answers is bounded in size and time.

use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;

use super::cdp::{Dialog, PATIENCE, PageError};
use super::hand::{Grip, Hand, Step};
use super::input::{self, Button, Typed, Viewport};
use super::keys::Chord;
use super::screenshots::{ImageFormat, capture};
use super::session::BrowserError;
use crate::Sandbox;

/// How much longer an action of many steps may take, for each of them.
const STEP_PATIENCE: Duration = Duration::from_millis(150);

/// How long a page may take to load its document, in an emulated guest on a busy host.
const LOAD_PATIENCE: Duration = Duration::from_secs(120);

/// Moves between two points of a path: a page sees a drag begin, go on and arrive.
const MOVES_PER_PIECE: u8 = 5;

/// How often a page that has begun to load may go on to another while it is waited for.
const MAX_REDIRECTS: u8 = 20;

/// Fulfilled when the page's document is there; what it shows may still load.
const LOADED: &str = "document.readyState !== 'loading' || \
    new Promise(done => document.addEventListener('DOMContentLoaded', () => done(true)))";

/// Mouse and keyboard of a browser session.
///
/// An action returns when the page has taken it. The page may go on to do something about it:
/// load another page, or scroll. An action that makes a page show a dialog returns; those that
/// follow fail with [`PageError::Dialog`] until it is answered. `keys` are held meanwhile.
#[derive(Debug)]
pub struct Computer<'a> {
    sandbox: &'a Sandbox,
    hand: &'a Mutex<Hand>,
    viewport: Viewport,
}

impl<'a> Computer<'a> {
    pub(super) const fn new(
        sandbox: &'a Sandbox,
        hand: &'a Mutex<Hand>,
        viewport: Viewport,
    ) -> Self {
        Self {
            sandbox,
            hand,
            viewport,
        }
    }

    /// Returns a picture of what the page's window shows, as PNG, one pixel to a CSS pixel.
    ///
    /// # Errors
    ///
    /// As for every action: when the session does not run, its page shows a dialog, or does not
    /// answer in a minute.
    pub async fn screenshot(&self) -> Result<Vec<u8>, BrowserError> {
        within(PATIENCE, async {
            let mut grip = self.grip().await?;
            let outcome = capture(&mut grip.page, false, ImageFormat::Png).await;
            grip.end(outcome)
        })
        .await
    }

    /// Clicks `count` times in a row; twice is a double click.
    ///
    /// # Errors
    ///
    /// When the point is outside the viewport, and as for every action.
    pub async fn click(
        &self,
        point: (f64, f64),
        button: Button,
        keys: &Chord,
        count: u8,
    ) -> Result<(), BrowserError> {
        let mut steps = vec![Step::Move(self.viewport.point(point)?)];
        for nth in 1..=count {
            steps.push(Step::Press(button, nth));
            steps.push(Step::Release(button, nth));
        }
        self.perform(keys, steps).await
    }

    /// Moves the pointer; with buttons that [`Self::press`] left down, this drags.
    ///
    /// # Errors
    ///
    /// When the point is outside the viewport, and as for every action.
    pub async fn move_to(&self, point: (f64, f64), keys: &Chord) -> Result<(), BrowserError> {
        let steps = vec![Step::Move(self.viewport.point(point)?)];
        self.perform(keys, steps).await
    }

    /// Presses a button where the pointer is, and leaves it down.
    ///
    /// # Errors
    ///
    /// As for every action.
    pub async fn press(&self, button: Button, keys: &Chord) -> Result<(), BrowserError> {
        self.perform(keys, vec![Step::Press(button, 1)]).await
    }

    /// Lets go of a button where the pointer is.
    ///
    /// # Errors
    ///
    /// As for every action.
    pub async fn release(&self, button: Button, keys: &Chord) -> Result<(), BrowserError> {
        self.perform(keys, vec![Step::Stay, Step::Release(button, 1)])
            .await
    }

    /// Drags with a button down from the first point of a path through all others to its last.
    ///
    /// # Errors
    ///
    /// When the path has less than two points or one outside the viewport, and as for every action.
    pub async fn drag(
        &self,
        path: &[(f64, f64)],
        button: Button,
        keys: &Chord,
    ) -> Result<(), BrowserError> {
        let path = self.viewport.path(path)?;
        let mut steps = vec![Step::Move(path[0]), Step::Press(button, 1)];
        for piece in path.windows(2) {
            for part in 1..=MOVES_PER_PIECE {
                let share = f64::from(part) / f64::from(MOVES_PER_PIECE);
                steps.push(Step::Move(piece[0].toward(piece[1], share)));
            }
        }
        steps.push(Step::Release(button, 1));
        self.perform(keys, steps).await
    }

    /// Turns the wheel at a point by CSS pixels, right and down.
    ///
    /// # Errors
    ///
    /// When the point is outside the viewport or a distance is none, and as for every action.
    pub async fn scroll(
        &self,
        point: (f64, f64),
        (right, down): (f64, f64),
        keys: &Chord,
    ) -> Result<(), BrowserError> {
        let right = input::delta("delta_x", right)?;
        let down = input::delta("delta_y", down)?;
        let steps = vec![
            Step::Move(self.viewport.point(point)?),
            Step::Wheel(right, down),
            Step::Settle,
        ];
        self.perform(keys, steps).await
    }

    /// Types a text where the focus is: by keys where there are some, a line break by Enter, and
    /// everything else as an input method puts it in.
    ///
    /// # Errors
    ///
    /// When the text is too long or has control characters, and as for every action.
    pub async fn type_text(&self, text: &str) -> Result<(), BrowserError> {
        let pieces = input::typed(text)?;
        let steps = pieces.into_iter().flat_map(|piece| match piece {
            Typed::Press(keys) => {
                vec![Step::KeysDown(keys.down()), Step::KeysUp(keys.up())]
            }
            Typed::Insert(text) => vec![Step::Insert(text)],
        });
        self.take_steps(Duration::ZERO, 0, steps.collect()).await
    }

    /// Presses keys together and lets go of them after `seconds`; a character repeats meanwhile.
    ///
    /// # Errors
    ///
    /// When there is no key or the time is none, and as for every action.
    pub async fn press_keys(&self, keys: &Chord, seconds: f64) -> Result<(), BrowserError> {
        if keys.is_empty() {
            return Err(input::InputError::NoKey.into());
        }
        let hold = input::seconds(seconds)?;
        let steps = vec![
            Step::KeysDown(keys.down()),
            Step::Hold(hold, keys.repeated()),
            Step::KeysUp(keys.up()),
        ];
        self.take_steps(hold, keys.modifiers(), steps).await
    }

    /// Does nothing for a time.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub async fn wait(&self, seconds: f64) -> Result<(), BrowserError> {
        tokio::time::sleep(input::seconds(seconds)?).await;
        Ok(())
    }

    /// Returns where the pointer was moved to last.
    pub async fn pointer(&self) -> (f64, f64) {
        self.hand.lock().await.pointer()
    }

    /// Returns the address of the page.
    ///
    /// # Errors
    ///
    /// As for every action, but whether the page shows a dialog or not.
    pub async fn current_url(&self) -> Result<String, BrowserError> {
        within(PATIENCE, async {
            let grip = self.grip().await?;
            let url = grip.url.clone();
            grip.end(Ok(url))
        })
        .await
    }

    /// Goes to an address and waits until its document is there.
    ///
    /// # Errors
    ///
    /// When it cannot be loaded, and as for every action.
    pub async fn goto(&self, url: &str) -> Result<(), BrowserError> {
        within(LOAD_PATIENCE, async {
            let mut grip = self.grip().await?;
            let outcome = load(&mut grip, url).await;
            grip.end(outcome)
        })
        .await
    }

    /// Returns the dialog that the page shows.
    ///
    /// # Errors
    ///
    /// When the session does not run or its browser does not answer.
    pub async fn dialog(&self) -> Result<Option<Dialog>, BrowserError> {
        within(PATIENCE, async {
            let grip = self.grip().await?;
            let dialog = grip.page.dialog().cloned();
            grip.end(Ok(dialog))
        })
        .await
    }

    /// Accepts or dismisses the dialog that the page shows; `text` goes into the field of a prompt.
    ///
    /// # Errors
    ///
    /// When there is no dialog, and as for [`Self::dialog`].
    pub async fn answer_dialog(
        &self,
        is_accepted: bool,
        text: Option<&str>,
    ) -> Result<(), BrowserError> {
        within(PATIENCE, async {
            let mut grip = self.grip().await?;
            let outcome = grip.answer_dialog(self.sandbox, is_accepted, text).await;
            grip.end(outcome)
        })
        .await
    }

    /// Takes steps with keys held.
    async fn perform(&self, keys: &Chord, steps: Vec<Step>) -> Result<(), BrowserError> {
        let mut all = Vec::with_capacity(steps.len() + 2);
        all.push(Step::KeysDown(keys.down()));
        all.extend(steps);
        all.push(Step::KeysUp(keys.up()));
        self.take_steps(Duration::ZERO, keys.modifiers(), all).await
    }

    /// Takes steps, which take the time of a page and `hold`.
    async fn take_steps(
        &self,
        hold: Duration,
        modifiers: u8,
        steps: Vec<Step>,
    ) -> Result<(), BrowserError> {
        let count = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        let patience = PATIENCE + STEP_PATIENCE * count;
        within(patience + hold, async {
            let mut grip = self.grip().await?;
            let outcome = grip.perform(modifiers, steps).await;
            grip.end(outcome)
        })
        .await
    }

    async fn grip(&self) -> Result<Grip<'a>, PageError> {
        Grip::take(self.sandbox, self.hand).await
    }
}

/// Bounds the time of an action. What takes longer has lost its connection to the page.
async fn within<T>(
    patience: Duration,
    action: impl Future<Output = Result<T, PageError>>,
) -> Result<T, BrowserError> {
    let outcome = tokio::time::timeout(patience, action).await;
    Ok(outcome.map_err(|_| PageError::Slow)??)
}

async fn load(grip: &mut Grip<'_>, url: &str) -> Result<(), PageError> {
    let page = &mut grip.page;
    let begun = page.call("Page.navigate", json!({"url": url})).await?;
    let is_download = begun["isDownload"] == true;
    if let Some(reason) = begun["errorText"].as_str().filter(|_| !is_download) {
        let reason = crate::text::excerpt(reason, 400);
        return Err(PageError::Load { reason });
    }
    let wait = json!({"expression": LOADED, "awaitPromise": true});
    for _ in 0..MAX_REDIRECTS {
        match page.call("Runtime.evaluate", wait.clone()).await {
            // It went on to another page.
            Err(PageError::Refused { .. }) => {}
            // The page is there, and the next action will say what it asks.
            Err(PageError::Dialog(_)) => return Ok(()),
            outcome => return outcome.map(|_| ()),
        }
    }
    Ok(())
}
