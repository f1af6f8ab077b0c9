//! What a user of a page does with a mouse and a keyboard, checked: [`Button`], [`Point`] and
//! [`Typed`]; [`super::keys`] has the keys.

use std::str::FromStr;
use std::time::Duration;

use super::keys::{Chord, Key};
use crate::ErrorKind;

/// Most points of a path, each of which is some messages to the guest.
const MAX_POINTS: usize = 1000;

/// Most characters that are typed at once: an emulated guest takes 50 in a second.
const MAX_CHARACTERS: usize = 10_000;

/// Longest that a key is held and that is waited at once, in seconds.
const MAX_SECONDS: f64 = 100.0;

/// Farthest that is scrolled at once, in CSS pixels: what Chromium draws of a page.
const MAX_DELTA: f64 = 16_777_216.0;

/// Why something cannot be done with mouse and keyboard.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InputError {
    /// A point is not in the page's window.
    #[error(
        "({x}, {y}) is outside the viewport; x must be 0 to {}, y 0 to {}",
        width.saturating_sub(1),
        height.saturating_sub(1)
    )]
    Outside {
        /// How far it is from the left.
        x: f64,
        /// How far it is from the top.
        y: f64,
        /// Width of the viewport in CSS pixels.
        width: u32,
        /// Height of the viewport in CSS pixels.
        height: u32,
    },
    /// A mouse has no such button.
    #[error("button {name:?} is none of left, middle (or wheel), right, back, forward")]
    Button {
        /// Its name, cut to a printable length.
        name: String,
    },
    /// A keyboard has no such key.
    #[error(
        "key {name:?} is unknown; a key is one character or a name such as Enter, ArrowLeft, \
         Page_Down, F5, CTRL, ALT, SHIFT or CMD, or several of them as in ctrl+shift+a"
    )]
    Key {
        /// Its name, cut to a printable length.
        name: String,
    },
    /// No key is named.
    #[error("keys is empty; it must name 1 key or more")]
    NoKey,
    /// More keys than hands can press.
    #[error("more than {max} keys cannot be pressed together")]
    TooManyKeys {
        /// The most there may be.
        max: usize,
    },
    /// A path does not lead anywhere, or is too long.
    #[error("path has {found} points; it must have 2 to {max}")]
    Path {
        /// Its points.
        found: usize,
        /// The most there may be.
        max: usize,
    },
    /// A text has too many characters.
    #[error("text has {found} characters; at most {max} are typed at once")]
    TooMuchText {
        /// Its characters.
        found: usize,
        /// The most there may be.
        max: usize,
    },
    /// A text has a character that is not typed.
    #[error("text has the control character {code:#04x}; press keys for what has no character")]
    Control {
        /// Its code.
        code: u32,
    },
    /// A time is not one that is waited.
    #[error("seconds is {found}; it must be 0 to {max}")]
    Seconds {
        /// The time asked for.
        found: f64,
        /// The longest there may be.
        max: f64,
    },
    /// That is not a distance that can be scrolled.
    #[error("{axis} is {found}; it must be {} to {max}", -max)]
    Delta {
        /// `delta_x` or `delta_y`.
        axis: &'static str,
        /// The distance asked for.
        found: f64,
        /// The farthest there may be.
        max: f64,
    },
}

impl InputError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

/// A button of the mouse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Button {
    /// The one that clicks.
    #[default]
    Left,
    /// The wheel.
    Middle,
    /// The one that asks for a menu.
    Right,
    /// The one that goes back in the page's history.
    Back,
    /// The one that goes forward in the page's history.
    Forward,
}

impl FromStr for Button {
    type Err = InputError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "left" => Self::Left,
            "middle" | "wheel" => Self::Middle,
            "right" => Self::Right,
            "back" => Self::Back,
            "forward" => Self::Forward,
            _ => {
                let name = crate::text::excerpt(name, 40);
                return Err(InputError::Button { name });
            }
        })
    }
}

impl Button {
    /// Every button.
    pub(super) const ALL: [Self; 5] = [
        Self::Left,
        Self::Middle,
        Self::Right,
        Self::Back,
        Self::Forward,
    ];

    /// Returns CDP's name of the button.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Middle => "middle",
            Self::Right => "right",
            Self::Back => "back",
            Self::Forward => "forward",
        }
    }

    /// Returns the button's bit among those that are down (`MouseEvent.buttons`).
    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Left => 1,
            Self::Right => 2,
            Self::Middle => 4,
            Self::Back => 8,
            Self::Forward => 16,
        }
    }
}

/// The size of a page's window, in CSS pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Viewport {
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Viewport {
    /// Returns a point, if the window has it.
    pub(super) fn point(self, (x, y): (f64, f64)) -> Result<Point, InputError> {
        let Self { width, height } = self;
        // Numbers that are none are in no range.
        if (0.0..f64::from(width)).contains(&x) && (0.0..f64::from(height)).contains(&y) {
            Ok(Point { x, y })
        } else {
            let outside = InputError::Outside {
                x,
                y,
                width,
                height,
            };
            Err(outside)
        }
    }

    /// Returns the points of a path, if it leads somewhere and the window has all of them.
    pub(super) fn path(self, points: &[(f64, f64)]) -> Result<Vec<Point>, InputError> {
        if !(2..=MAX_POINTS).contains(&points.len()) {
            return Err(InputError::Path {
                found: points.len(),
                max: MAX_POINTS,
            });
        }
        points.iter().map(|point| self.point(*point)).collect()
    }
}

/// A point of a page's window, in CSS pixels from its upper left corner.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

impl Point {
    /// Returns the point between this one and `end` at `share` of the way.
    pub(super) fn toward(self, end: Self, share: f64) -> Self {
        Self {
            x: (end.x - self.x).mul_add(share, self.x),
            y: (end.y - self.y).mul_add(share, self.y),
        }
    }
}

/// A piece of text as a page gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A key is pressed.
    Press(Chord),
    /// Characters without a key are put in, as an input method does.
    Insert(String),
}

/// Returns how a text is typed.
pub(super) fn typed(text: &str) -> Result<Vec<Typed>, InputError> {
    let found = text.chars().count();
    if found > MAX_CHARACTERS {
        let max = MAX_CHARACTERS;
        return Err(InputError::TooMuchText { found, max });
    }
    let mut pieces = Vec::new();
    for character in text.replace("\r\n", "\n").chars() {
        let key = match character {
            '\n' | '\r' => Some(Key::enter()),
            '\t' => Some(Key::tab()),
            control if control.is_control() => {
                let code = u32::from(control);
                return Err(InputError::Control { code });
            }
            character => Key::of_character(character),
        };
        match (key, pieces.last_mut()) {
            (Some(key), _) => pieces.push(Typed::Press(Chord::of_key(key))),
            (None, Some(Typed::Insert(run))) => run.push(character),
            (None, _) => pieces.push(Typed::Insert(character.to_string())),
        }
    }
    Ok(pieces)
}

/// Returns how long to wait, if that is a time.
pub(super) fn seconds(found: f64) -> Result<Duration, InputError> {
    let max = MAX_SECONDS;
    if (0.0..=max).contains(&found) {
        Ok(Duration::from_secs_f64(found))
    } else {
        Err(InputError::Seconds { found, max })
    }
}

/// Returns how far to scroll, if that is a distance.
pub(super) fn delta(axis: &'static str, found: f64) -> Result<f64, InputError> {
    let max = MAX_DELTA;
    if (-max..=max).contains(&found) {
        Ok(found)
    } else {
        Err(InputError::Delta { axis, found, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEWPORT: Viewport = Viewport {
        width: 640,
        height: 480,
    };

    #[test]
    fn points_are_those_of_the_window() {
        assert!(VIEWPORT.point((0.0, 479.5)).is_ok());
        for outside in [
            (-0.1, 0.0),
            (640.0, 0.0),
            (0.0, 480.0),
            (f64::NAN, 0.0),
            (0.0, f64::INFINITY),
        ] {
            let error = VIEWPORT.point(outside).expect_err("outside");
            let message = error.to_string();
            assert!(
                message.ends_with("x must be 0 to 639, y 0 to 479"),
                "{message}"
            );
        }
    }

    #[test]
    fn path_has_a_beginning_and_an_end() {
        for points in [vec![], vec![(1.0, 1.0)], vec![(1.0, 1.0); MAX_POINTS + 1]] {
            let error = VIEWPORT.path(&points).expect_err("no path");
            assert!(matches!(error, InputError::Path { found, .. } if found == points.len()));
        }
        assert_eq!(
            VIEWPORT
                .path(&[(0.0, 0.0), (9.0, 9.0)])
                .expect("a path")
                .len(),
            2
        );
    }

    #[test]
    fn text_is_keys_and_what_has_none() {
        let press = |name: &str| Typed::Press(Chord::new(&[name]).expect("a key"));
        let insert = |text: &str| Typed::Insert(text.to_owned());
        assert_eq!(
            typed("aÜß!\r\n世界\t").expect("text"),
            [
                press("a"),
                insert("Üß"),
                press("!"),
                press("Enter"),
                insert("世界"),
                press("Tab")
            ]
        );
        assert!(matches!(
            typed("\u{1b}"),
            Err(InputError::Control { code: 0x1b })
        ));
        let long = "x".repeat(MAX_CHARACTERS + 1);
        assert!(matches!(typed(&long), Err(InputError::TooMuchText { .. })));
    }

    #[test]
    fn times_and_distances_have_ends() {
        assert_eq!(seconds(0.5).expect("a time"), Duration::from_millis(500));
        for found in [-1.0, 101.0, f64::NAN] {
            assert!(matches!(seconds(found), Err(InputError::Seconds { .. })));
        }
        assert!(delta("delta_y", -300.0).is_ok());
        assert!(delta("delta_y", f64::NAN).is_err());
    }
}
