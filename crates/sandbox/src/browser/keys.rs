//! The keys of a keyboard: their names, and what a page is told when one is pressed.
//!
//! Names are those of the DOM (`ArrowLeft`), of X11 and xdotool (`Page_Down`, `Control_L`) and
//! those that models use (`CTRL`, `CMD`); case and underscores do not matter. The layout is that
//! of the United States.
//!
//! Spec: UI Events KeyboardEvent key Values and code Values, W3C; virtual codes as in winuser.h.

use serde_json::{Value, json};

use super::input::InputError;

/// Modifiers as CDP counts them (`Input.dispatchKeyEvent`).
const ALT: u8 = 1;
const CONTROL: u8 = 2;
const META: u8 = 4;
const SHIFT: u8 = 8;

/// Most keys that are pressed together: a hand's, and a hand's of modifiers.
const MAX_KEYS: usize = 10;

/// The keys that make characters: code, virtual code, and the character without and with shift.
#[rustfmt::skip]
const CHARACTER_KEYS: &[(&str, u16, char, char)] = &[
    ("KeyA", 65, 'a', 'A'), ("KeyB", 66, 'b', 'B'), ("KeyC", 67, 'c', 'C'), ("KeyD", 68, 'd', 'D'),
    ("KeyE", 69, 'e', 'E'), ("KeyF", 70, 'f', 'F'), ("KeyG", 71, 'g', 'G'), ("KeyH", 72, 'h', 'H'),
    ("KeyI", 73, 'i', 'I'), ("KeyJ", 74, 'j', 'J'), ("KeyK", 75, 'k', 'K'), ("KeyL", 76, 'l', 'L'),
    ("KeyM", 77, 'm', 'M'), ("KeyN", 78, 'n', 'N'), ("KeyO", 79, 'o', 'O'), ("KeyP", 80, 'p', 'P'),
    ("KeyQ", 81, 'q', 'Q'), ("KeyR", 82, 'r', 'R'), ("KeyS", 83, 's', 'S'), ("KeyT", 84, 't', 'T'),
    ("KeyU", 85, 'u', 'U'), ("KeyV", 86, 'v', 'V'), ("KeyW", 87, 'w', 'W'), ("KeyX", 88, 'x', 'X'),
    ("KeyY", 89, 'y', 'Y'), ("KeyZ", 90, 'z', 'Z'),
    ("Digit0", 48, '0', ')'), ("Digit1", 49, '1', '!'), ("Digit2", 50, '2', '@'),
    ("Digit3", 51, '3', '#'), ("Digit4", 52, '4', '$'), ("Digit5", 53, '5', '%'),
    ("Digit6", 54, '6', '^'), ("Digit7", 55, '7', '&'), ("Digit8", 56, '8', '*'),
    ("Digit9", 57, '9', '('),
    ("Semicolon", 186, ';', ':'), ("Equal", 187, '=', '+'), ("Comma", 188, ',', '<'),
    ("Minus", 189, '-', '_'), ("Period", 190, '.', '>'), ("Slash", 191, '/', '?'),
    ("Backquote", 192, '`', '~'), ("BracketLeft", 219, '[', '{'), ("Backslash", 220, '\\', '|'),
    ("BracketRight", 221, ']', '}'), ("Quote", 222, '\'', '"'), ("Space", 32, ' ', ' '),
];

/// The other keys: key, code, virtual code, modifier, and further names in small letters.
#[rustfmt::skip]
const NAMED_KEYS: &[(&str, &str, u16, u8, &[&str])] = &[
    ("Alt", "AltLeft", 18, ALT, &["altl", "option", "opt"]),
    ("Alt", "AltRight", 18, ALT, &["altr"]),
    ("Control", "ControlLeft", 17, CONTROL, &["ctrl", "controll", "ctrll", "ctrlleft"]),
    ("Control", "ControlRight", 17, CONTROL, &["controlr", "ctrlr", "ctrlright"]),
    ("Meta", "MetaLeft", 91, META, &["metal", "cmd", "command", "super", "superl", "win", "windows"]),
    ("Meta", "MetaRight", 92, META, &["metar", "superr"]),
    ("Shift", "ShiftLeft", 16, SHIFT, &["shiftl"]),
    ("Shift", "ShiftRight", 16, SHIFT, &["shiftr"]),
    ("ArrowDown", "ArrowDown", 40, 0, &["down"]),
    ("ArrowLeft", "ArrowLeft", 37, 0, &["left"]),
    ("ArrowRight", "ArrowRight", 39, 0, &["right"]),
    ("ArrowUp", "ArrowUp", 38, 0, &["up"]),
    ("Backspace", "Backspace", 8, 0, &[]),
    ("CapsLock", "CapsLock", 20, 0, &[]),
    ("ContextMenu", "ContextMenu", 93, 0, &["menu"]),
    ("Delete", "Delete", 46, 0, &["del"]),
    ("End", "End", 35, 0, &[]),
    ("Enter", "Enter", 13, 0, &["return"]),
    ("Enter", "NumpadEnter", 13, 0, &["kpenter"]),
    ("Escape", "Escape", 27, 0, &["esc"]),
    ("Home", "Home", 36, 0, &[]),
    ("Insert", "Insert", 45, 0, &["ins"]),
    ("NumLock", "NumLock", 144, 0, &[]),
    ("PageDown", "PageDown", 34, 0, &["pgdn", "next"]),
    ("PageUp", "PageUp", 33, 0, &["pgup", "prior"]),
    ("Pause", "Pause", 19, 0, &["break"]),
    ("PrintScreen", "PrintScreen", 44, 0, &["print"]),
    ("ScrollLock", "ScrollLock", 145, 0, &[]),
    ("Tab", "Tab", 9, 0, &[]),
    ("F1", "F1", 112, 0, &[]), ("F2", "F2", 113, 0, &[]), ("F3", "F3", 114, 0, &[]),
    ("F4", "F4", 115, 0, &[]), ("F5", "F5", 116, 0, &[]), ("F6", "F6", 117, 0, &[]),
    ("F7", "F7", 118, 0, &[]), ("F8", "F8", 119, 0, &[]), ("F9", "F9", 120, 0, &[]),
    ("F10", "F10", 121, 0, &[]), ("F11", "F11", 122, 0, &[]), ("F12", "F12", 123, 0, &[]),
];

/// X11's names of characters (keysymdef.h), in small letters.
#[rustfmt::skip]
const CHARACTER_NAMES: &[(&str, char)] = &[
    ("space", ' '), ("spacebar", ' '), ("exclam", '!'), ("quotedbl", '"'), ("numbersign", '#'),
    ("dollar", '$'), ("percent", '%'), ("ampersand", '&'), ("apostrophe", '\''),
    ("parenleft", '('), ("parenright", ')'), ("asterisk", '*'), ("plus", '+'), ("comma", ','),
    ("minus", '-'), ("period", '.'), ("slash", '/'), ("colon", ':'), ("semicolon", ';'),
    ("less", '<'), ("equal", '='), ("greater", '>'), ("question", '?'), ("at", '@'),
    ("bracketleft", '['), ("backslash", '\\'), ("bracketright", ']'), ("asciicircum", '^'),
    ("underscore", '_'), ("grave", '`'), ("braceleft", '{'), ("bar", '|'), ("braceright", '}'),
    ("asciitilde", '~'),
    ("kp0", '0'), ("kp1", '1'), ("kp2", '2'), ("kp3", '3'), ("kp4", '4'), ("kp5", '5'),
    ("kp6", '6'), ("kp7", '7'), ("kp8", '8'), ("kp9", '9'), ("kpadd", '+'), ("kpdecimal", '.'),
    ("kpdivide", '/'), ("kpequal", '='), ("kpmultiply", '*'), ("kpsubtract", '-'),
];

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A key that makes a character: its place in the table, and whether with shift.
    Character { index: usize, is_shifted: bool },
    /// A key that makes none: its place in the table.
    Named { index: usize },
    /// A character that no key of the layout makes.
    Foreign(char),
}

impl Key {
    /// The key that ends a line.
    pub(super) fn enter() -> Self {
        Self::of_name("enter").expect("the table has it")
    }

    /// The key that goes to the next field.
    pub(super) fn tab() -> Self {
        Self::of_name("tab").expect("the table has it")
    }

    /// Returns the key of the layout that makes a character.
    pub(super) fn of_character(character: char) -> Option<Self> {
        let index = CHARACTER_KEYS
            .iter()
            .position(|(_, _, plain, shifted)| [*plain, *shifted].contains(&character))?;
        let is_shifted = CHARACTER_KEYS[index].2 != character;
        Some(Self::Character { index, is_shifted })
    }

    /// Returns the key that has a name of more than one character.
    fn of_name(name: &str) -> Option<Self> {
        let name: String = name.chars().filter(|character| *character != '_').collect();
        let name = name.to_ascii_lowercase();
        let is_name = |known: &str| known.eq_ignore_ascii_case(&name);
        if let Some((_, character)) = CHARACTER_NAMES.iter().find(|(known, _)| is_name(known)) {
            return Self::of_character(*character);
        }
        if let Some(index) = CHARACTER_KEYS.iter().position(|(code, ..)| is_name(code)) {
            let is_shifted = false;
            return Some(Self::Character { index, is_shifted });
        }
        NAMED_KEYS
            .iter()
            .position(|(key, code, _, _, names)| {
                is_name(key) || is_name(code) || names.contains(&&name[..])
            })
            .map(|index| Self::Named { index })
    }

    /// Returns the key that a caller means, by its character or its name.
    fn of(text: &str) -> Option<Self> {
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some('\n' | '\r'), None) => Some(Self::enter()),
            (Some('\t'), None) => Some(Self::tab()),
            (Some(character), None) if character.is_control() => None,
            (Some(character), None) => {
                Self::of_character(character).or(Some(Self::Foreign(character)))
            }
            _ => Self::of_name(text),
        }
    }

    /// Returns the modifier that the key is while it is down, or has to have to make its character.
    fn modifier(self) -> u8 {
        match self {
            Self::Character { is_shifted, .. } if is_shifted => SHIFT,
            Self::Character { .. } | Self::Foreign(_) => 0,
            Self::Named { index } => NAMED_KEYS[index].3,
        }
    }

    fn is_modifier(self) -> bool {
        matches!(self, Self::Named { index } if NAMED_KEYS[index].3 != 0)
    }

    /// Returns the event of the key going down (CDP `Input.dispatchKeyEvent`).
    pub(super) fn down(self, modifiers: u8, is_repeated: bool) -> Value {
        let mut event = self.event(modifiers);
        let text = self.text(modifiers);
        // Only an event with text makes a page insert something.
        event["type"] = json!(if text.is_some() {
            "keyDown"
        } else {
            "rawKeyDown"
        });
        if let Some(text) = text {
            event["text"] = json!(text);
            event["unmodifiedText"] = json!(text);
        }
        event["autoRepeat"] = json!(is_repeated);
        event
    }

    /// Returns the event of the key going up.
    pub(super) fn up(self, modifiers: u8) -> Value {
        let mut event = self.event(modifiers);
        event["type"] = json!("keyUp");
        event
    }

    fn event(self, modifiers: u8) -> Value {
        let (key, code, virtual_code) = match self {
            Self::Character { index, .. } => {
                let (code, virtual_code, plain, shifted) = CHARACTER_KEYS[index];
                let character = if modifiers & SHIFT == 0 {
                    plain
                } else {
                    shifted
                };
                (character.to_string(), code, virtual_code)
            }
            Self::Named { index } => {
                let (key, code, virtual_code, ..) = NAMED_KEYS[index];
                (key.to_owned(), code, virtual_code)
            }
            Self::Foreign(character) => (character.to_string(), "", 0),
        };
        json!({
            "key": key,
            "code": code,
            "windowsVirtualKeyCode": virtual_code,
            "modifiers": modifiers,
            "location": location(code),
        })
    }

    /// Returns what the key inserts. With control and the like it is a command, not a character.
    fn text(self, modifiers: u8) -> Option<String> {
        if modifiers & !SHIFT != 0 {
            return None;
        }
        match self {
            Self::Character { index, .. } => {
                let (_, _, plain, shifted) = CHARACTER_KEYS[index];
                let character = if modifiers & SHIFT == 0 {
                    plain
                } else {
                    shifted
                };
                Some(character.to_string())
            }
            Self::Foreign(character) => Some(character.to_string()),
            Self::Named { index } => (NAMED_KEYS[index].0 == "Enter").then(|| "\r".to_owned()),
        }
    }
}

/// Returns which of two equal keys a code stands for (`KeyboardEvent.location`).
fn location(code: &str) -> u8 {
    let is_pair = ["Alt", "Control", "Meta", "Shift"]
        .iter()
        .any(|pair| code.starts_with(pair));
    match code {
        _ if is_pair && code.ends_with("Left") => 1,
        _ if is_pair && code.ends_with("Right") => 2,
        "NumpadEnter" => 3,
        _ => 0,
    }
}

/// Keys that are pressed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chord {
    keys: Vec<Key>,
}

impl Chord {
    /// Returns the keys that `names` name, of which each may be several: `ctrl+s`.
    ///
    /// # Errors
    ///
    /// When a key is unknown, or there are too many.
    pub fn new(names: &[impl AsRef<str>]) -> Result<Self, InputError> {
        let mut keys = Vec::new();
        for name in names {
            keys.extend(keys_of(name.as_ref())?);
            if keys.len() > MAX_KEYS {
                return Err(InputError::TooManyKeys { max: MAX_KEYS });
            }
        }
        // Among other keys a letter is the key, whatever its case: CTRL and A are no CTRL+SHIFT+A.
        if keys.len() > 1 {
            for key in &mut keys {
                if let Key::Character { index, is_shifted } = key
                    && CHARACTER_KEYS[*index].2.is_ascii_lowercase()
                {
                    *is_shifted = false;
                }
            }
        }
        // What changes other keys has to be down before them.
        keys.sort_by_key(|key| !key.is_modifier());
        Ok(Self { keys })
    }

    /// Returns the chord of one key.
    pub(super) fn of_key(key: Key) -> Self {
        Self { keys: vec![key] }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the modifiers while all keys are down.
    pub(super) fn modifiers(&self) -> u8 {
        self.keys.iter().fold(0, |all, key| all | key.modifier())
    }

    /// Returns the events of the keys going down, one after the other.
    pub(super) fn down(&self) -> Vec<Value> {
        let mut held = 0;
        let keys = self.keys.iter();
        keys.map(|key| {
            held |= key.modifier();
            key.down(held, false)
        })
        .collect()
    }

    /// Returns the event of the last key being held, if it is one that repeats.
    pub(super) fn repeated(&self) -> Option<Value> {
        let last = self.keys.last().filter(|key| !key.is_modifier())?;
        Some(last.down(self.modifiers(), true))
    }

    /// Returns the events of the keys going up, the last first.
    pub(super) fn up(&self) -> Vec<Value> {
        let mut held = self.modifiers();
        let keys = self.keys.iter().rev();
        keys.map(|key| {
            // A modifier that goes up is no modifier of its own event.
            if key.is_modifier() {
                held &= !key.modifier();
            }
            key.up(held)
        })
        .collect()
    }
}

/// Returns the keys of one name: of the whole name, or else of the parts between its plus signs.
fn keys_of(name: &str) -> Result<Vec<Key>, InputError> {
    let unknown = || InputError::Key {
        name: crate::text::excerpt(name, 40),
    };
    if let Some(key) = Key::of(name) {
        return Ok(vec![key]);
    }
    // In `ctrl++`, the last one is the key.
    let (parts, last) = match name.strip_suffix("++") {
        Some(parts) => (parts, Some("+")),
        None => (name, None),
    };
    if last.is_none() && !parts.contains('+') {
        return Err(unknown());
    }
    let parts = parts.split('+').chain(last);
    parts
        .map(|part| Key::of(part).ok_or_else(unknown))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(names: &[&str]) -> Vec<(String, String, u64)> {
        let chord = Chord::new(names).expect("known keys");
        let events = chord.down().into_iter().chain(chord.up());
        events
            .map(|event| {
                (
                    event["type"].as_str().expect("text").to_owned(),
                    event["key"].as_str().expect("text").to_owned(),
                    event["modifiers"].as_u64().expect("a number"),
                )
            })
            .collect()
    }

    fn event(kind: &str, key: &str, modifiers: u64) -> (String, String, u64) {
        (kind.to_owned(), key.to_owned(), modifiers)
    }

    #[test]
    fn every_table_names_each_key_once() {
        for (index, (code, _, plain, shifted)) in CHARACTER_KEYS.iter().enumerate() {
            let is_shifted = false;
            let key = Key::Character { index, is_shifted };
            assert_eq!(Key::of_name(code), Some(key));
            assert_eq!(Key::of_character(*plain), Some(key));
            let is_shifted = plain != shifted;
            let key = Key::Character { index, is_shifted };
            assert_eq!(Key::of_character(*shifted), Some(key));
        }
        for (index, (_, code, _, _, names)) in NAMED_KEYS.iter().enumerate() {
            assert_eq!(Key::of_name(code), Some(Key::Named { index }), "{code}");
            for name in *names {
                assert_eq!(Key::of_name(name), Some(Key::Named { index }), "{name}");
            }
        }
        for (name, character) in CHARACTER_NAMES {
            assert_eq!(Key::of_name(name), Key::of_character(*character), "{name}");
        }
    }

    #[test]
    fn styles_of_names_mean_the_same_keys() {
        for names in [
            &["CTRL", "A"][..],
            &["ctrl+a"],
            &["Control_L", "a"],
            &["ControlLeft", "KeyA"],
            &["a", "CTRL"],
        ] {
            let expected = [
                event("rawKeyDown", "Control", 2),
                event("rawKeyDown", "a", 2),
                event("keyUp", "a", 2),
                event("keyUp", "Control", 0),
            ];
            assert_eq!(events(names), expected, "{names:?}");
        }
        for name in ["Page_Down", "PAGEDOWN", "PageDown", "pgdn", "Next"] {
            assert_eq!(Key::of(name), Key::of("PageDown"), "{name}");
        }
        assert_eq!(Chord::new(&["ctrl++"]), Chord::new(&["CTRL", "plus"]));
        assert_eq!(Chord::new(&["+"]), Chord::new(&["plus"]));
    }

    #[test]
    fn character_alone_is_made_with_shift_where_it_needs_it() {
        let down = |name| Chord::new(&[name]).expect("a key").down().remove(0);
        assert_eq!(down("A")["text"], "A");
        assert_eq!(down("A")["modifiers"], SHIFT);
        assert_eq!(down("?")["code"], "Slash");
        assert_eq!(down("ß")["text"], "ß");
        assert_eq!(down("Return")["text"], "\r");
        assert!(down("Escape").get("text").is_none());
        let both = Chord::new(&["shift", "a"]).expect("keys").down();
        assert_eq!(both[1]["text"], "A");
        let command = Chord::new(&["ctrl", "?"]).expect("keys").down();
        assert_eq!(command[1]["modifiers"], CONTROL | SHIFT);
        assert!(command[1].get("text").is_none());
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["", "CTR", "ctrl+", "+ctrl+", "\u{7}", "ab"] {
            let error = Chord::new(&[name]).expect_err("no key");
            assert!(matches!(error, InputError::Key { .. }), "{name:?}");
        }
        let many = ["a"; MAX_KEYS + 1];
        let error = Chord::new(&many).expect_err("too many");
        assert!(matches!(error, InputError::TooManyKeys { .. }));
    }

    proptest! {
        #[test]
        fn what_goes_down_goes_up_whatever_is_asked(
            names in proptest::collection::vec("\\PC{0,6}", 0..6),
        ) {
            if let Ok(chord) = Chord::new(&names) {
                let codes = |events: Vec<Value>| -> Vec<Value> {
                    events.into_iter().map(|event| event["code"].clone()).collect()
                };
                let mut up = codes(chord.up());
                up.reverse();
                prop_assert_eq!(codes(chord.down()), up);
            }
        }
    }
}
