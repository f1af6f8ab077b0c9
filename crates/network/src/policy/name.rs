//! DNS names, and patterns of them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use idna::AsciiDenyList;
use serde::{Deserialize, Serialize};

/// Longest name in bytes, written with dots and without the final one (RFC 1035 §2.3.4: 255 bytes
/// on the wire, of which one is the length of the first label and one the root).
const MAX_NAME_BYTES: usize = 253;

/// Longest label in bytes (RFC 1035 §2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// Suffixes below which nobody can register a name, so that all of them are the host's owner's own
/// (IANA Special-Use Domain Names; `internal` by ICANN's decision of 2024).
const UNREGISTERED_SUFFIXES: &[&str] = &[
    "example",
    "internal",
    "invalid",
    "local",
    "localhost",
    "test",
];

/// The domain whose names the gateway answers itself and never asks anyone for.
pub const RESERVED_DOMAIN: &str = "smolvm.internal";

/// The name by which a guest reaches ports of the host's loopback. Only a rule with exactly this
/// name and its ports opens it.
pub const HOST_NAME: &str = "host.smolvm.internal";

/// The name of the gateway itself, as the guest sees it.
pub const GATEWAY_NAME: &str = "gateway.smolvm.internal";

/// Why a text is not a DNS name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only the root.
    #[error("a name must not be empty")]
    Empty,
    /// A dot without a label before it.
    #[error("a label of a name must not be empty")]
    EmptyLabel,
    /// Longer than DNS carries.
    #[error("a name has at most {MAX_NAME_BYTES} bytes in its ASCII form")]
    TooLong,
    /// A label longer than DNS carries.
    #[error("a label has at most {MAX_LABEL_BYTES} bytes in its ASCII form")]
    LabelTooLong,
    /// A character that no host's name has.
    #[error("a name has letters, digits, `-`, `_` and dots")]
    Character,
    /// Letters that IDNA does not allow, or not together.
    #[error("not a valid internationalised name")]
    Idna,
    /// An IP address, or what some programs take for one.
    #[error("an address is not a name")]
    Address,
}

/// A DNS name: ASCII, lower case, without the final dot; never an IP address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Returns a name as a protocol carries it: no encoding, upper and lower case the same, and
    /// the final dot optional.
    ///
    /// # Errors
    ///
    /// When the text is not a name.
    pub fn from_ascii(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        check(text)?;
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the domains that the name is below, nearest first.
    pub(crate) fn parents(&self) -> impl Iterator<Item = &str> {
        self.0
            .match_indices('.')
            .map(|(dot, _)| self.0.get(dot + 1..).unwrap_or_default())
    }

    /// Tells whether the name is this domain or below it.
    #[must_use]
    pub fn is_within(&self, domain: &str) -> bool {
        self.as_str() == domain || self.parents().any(|parent| parent == domain)
    }
}

/// Checks an ASCII name without its final dot.
fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    for label in text.split('.') {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        // Underscores are in the names of services (RFC 8552).
        if !label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        {
            return Err(NameError::Character);
        }
        if label.len() > MAX_LABEL_BYTES {
            return Err(NameError::LabelTooLong);
        }
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    if ends_in_number(text) {
        return Err(NameError::Address);
    }
    Ok(())
}

/// Tells whether the last label is a number. Programs take such a name for an IPv4 address, also
/// in its short, octal and hexadecimal forms (WHATWG URL §3.5, "ends in a number checker").
fn ends_in_number(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return true;
    }
    last.strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Lets maps with names for keys be asked for text.
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Returns a name as people write it: also in other letters than ASCII (IDNA, RFC 5891).
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_ascii() {
            return Self::from_ascii(text);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), AsciiDenyList::EMPTY)
            .map_err(|_| NameError::Idna)?;
        Self::from_ascii(&ascii)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which names a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NamePattern {
    /// `*`: every name.
    Any,
    /// `example.com`: this name.
    Exact(Name),
    /// `*.example.com`: every name below this one, at any depth, but not itself.
    Below(Name),
}

impl NamePattern {
    /// Tells whether the pattern is about the name.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == name,
            Self::Below(domain) => name.parents().any(|parent| parent == domain.as_str()),
        }
    }

    /// Tells whether strangers share the names of the pattern: `*.com` and `*.co.uk` are below a
    /// suffix where everybody registers names.
    ///
    /// Suffixes of one company, such as `github.io`, do not count: to allow them is common, and
    /// says what it does. A suffix that the list does not have may be a new one.
    pub(crate) fn is_below_public_suffix(&self) -> bool {
        let Self::Below(domain) = self else {
            return false;
        };
        let domain = domain.as_str();
        let is_listed = psl::suffix(domain.as_bytes())
            .is_some_and(|suffix| suffix.typ() == Some(psl::Type::Icann) && suffix == domain);
        let is_unlisted = !domain.contains('.') && !UNREGISTERED_SUFFIXES.contains(&domain);
        is_listed || is_unlisted
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(domain) => domain.parse().map(Self::Below),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl TryFrom<String> for NamePattern {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    #[test]
    fn names_that_mean_the_same_are_the_same() {
        assert_eq!(name("EXAMPLE.com."), name("example.com"));
        assert_eq!(name("Bücher.example"), name("xn--bcher-kva.example"));
        // The ideographic full stop is a dot to people who type with it (UTS #46 §2.3).
        assert_eq!(name("例え。テスト").as_str(), "xn--r8jz45g.xn--zckzah");
        assert_eq!(name("_dmarc.example.com").as_str(), "_dmarc.example.com");
    }

    #[test]
    fn texts_that_are_no_names_are_refused() {
        let label = "a".repeat(64);
        let long = ["a".repeat(63).as_str(); 4].join(".");
        for (text, expected) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..b", NameError::EmptyLabel),
            (".example.com", NameError::EmptyLabel),
            ("example.com..", NameError::EmptyLabel),
            ("exa mple.com", NameError::Character),
            ("*.example.com", NameError::Character),
            ("example.com:80", NameError::Character),
            (label.as_str(), NameError::LabelTooLong),
            (long.as_str(), NameError::TooLong),
            ("127.0.0.1", NameError::Address),
            ("127.1", NameError::Address),
            ("0x7f000001", NameError::Address),
            ("2130706433", NameError::Address),
            ("\u{fdd0}.com", NameError::Idna),
        ] {
            assert_eq!(text.parse::<Name>(), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn full_width_digits_are_no_way_around_addresses() {
        assert_eq!(
            "１２７．０．０．１".parse::<Name>(),
            Err(NameError::Address)
        );
    }

    #[test]
    fn wildcard_matches_any_depth_but_not_itself() {
        let pattern = NamePattern::Below(name("example.com"));
        assert!(pattern.matches(&name("a.example.com")));
        assert!(pattern.matches(&name("a.b.c.example.com")));
        assert!(!pattern.matches(&name("example.com")));
        assert!(!pattern.matches(&name("badexample.com")));
        assert!(!pattern.matches(&name("example.com.evil.test")));
    }

    #[test]
    fn public_suffixes_are_those_of_registries() {
        for (domain, expected) in [
            ("com", true),
            ("co.uk", true),
            ("not-listed-yet", true),
            ("internal", false),
            ("test", false),
            ("example.com", false),
            ("github.io", false),
            ("example.co.uk", false),
            ("corp.internal", false),
        ] {
            let pattern = NamePattern::Below(name(domain));
            assert_eq!(pattern.is_below_public_suffix(), expected, "{domain}");
        }
    }
}
