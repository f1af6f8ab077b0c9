//! Which requests may be made to a host: methods and paths.
//!
//! ```text
//!   GET,POST api.example.com/v1/*          *  *.example.com
//!   |        |              |
//!   methods  host           path (optional: every path)
//! ```
//!
//! A host that a rule is about takes only requests that some rule allows; other hosts take all.
//! In a path, `*` as a whole segment stands for one segment, and as the last for any number; `%2A` is
//! a star of the path itself.
//!
//! # How paths are compared
//!
//! Servers disagree about what a path means, and a rule must hold for all of them. So segments are
//! percent-decoded once, dot segments are resolved (RFC 3986 §5.2.4), and then a rule must match
//! the path both before and after that: `/v1/../admin` is `/v1/*` to a server that takes it
//! literally and `/admin` to one that resolves it. What is read in more than two ways is denied:
//! encoded slashes, backslashes, what is encoded twice, parameters of dot segments (`..;`), and dot
//! segments beside empty ones.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::http::RequestHead;
use crate::{Name, NameError, NamePattern, Verdict};

#[cfg(test)]
mod tests;

/// Characters of a rule's text that an error repeats, at most.
const MAX_QUOTED_CHARACTERS: usize = 80;

/// What is encoded in a segment: all but what may stand in one (RFC 3986 §3.3, `pchar`), and `*`,
/// which is a wildcard here.
const NOT_IN_SEGMENTS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Why a text is not a rule, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?}, column {column}: {problem}")]
pub struct HttpRuleError {
    /// The text, cut to a printable length.
    pub rule: String,
    /// Where the problem begins, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub problem: HttpRuleProblem,
}

/// What is wrong with the text of a rule, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpRuleProblem {
    /// There is nothing.
    #[error("a rule is methods and a host, such as `GET,POST api.example.com/v1/*`")]
    Empty,
    /// A method is not one.
    #[error("a method is written in capitals, such as `GET`, or `*` for all")]
    Method,
    /// There is no host.
    #[error("a host is missing, such as in `GET api.example.com/v1/*`")]
    NoHost,
    /// The host is not a name or pattern.
    #[error("not a host: {0}")]
    Host(NameError),
    /// There is a third word.
    #[error("a rule ends with its path; write a space in it as `%20`")]
    TrailingText,
    /// The path has a query.
    #[error("rules compare paths only; leave out what begins with `?` or `#`")]
    Query,
    /// `*` within a segment.
    #[error("`*` stands for a whole segment, such as in `/v1/*/issues`")]
    Wildcard,
    /// The path can be read in several ways.
    #[error("write the path as it is meant: {0}")]
    Path(PathProblem),
}

/// In which way a path can be read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// It does not begin with `/`.
    #[error("it does not begin with `/`")]
    Relative,
    /// A `%` that encodes nothing.
    #[error("it has a `%` without two hexadecimal digits")]
    Percent,
    /// What is encoded is not UTF-8.
    #[error("it is not UTF-8")]
    Encoding,
    /// A character that servers treat differently.
    #[error("it has an encoded slash, a backslash or a control character")]
    Character,
    /// It is encoded once more.
    #[error("it is encoded twice")]
    EncodedTwice,
    /// Dot segments with parameters or beside empty segments.
    #[error("it has dot segments that servers resolve differently")]
    Dots,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// Methods; none stands for all.
    methods: Vec<String>,
    host: NamePattern,
    /// Segments of the path.
    path: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `*`: any one, or at the end any number.
    Any,
}

impl HttpRule {
    fn allows(&self, method: &str, path: &Path) -> bool {
        let is_method = self.methods.is_empty() || self.methods.iter().any(|own| own == method);
        is_method && self.matches(&path.literal) && self.matches(&path.resolved)
    }

    fn matches(&self, segments: &[String]) -> bool {
        let (rule, is_open) = match self.path.split_last() {
            Some((Segment::Any, before)) => (before, true),
            _ => (&self.path[..], false),
        };
        let is_long_enough = if is_open {
            segments.len() > rule.len()
        } else {
            segments.len() == rule.len()
        };
        is_long_enough
            && rule.iter().zip(segments).all(|(rule, segment)| match rule {
                Segment::Literal(literal) => literal == segment,
                Segment::Any => !segment.is_empty(),
            })
    }
}

impl FromStr for HttpRule {
    type Err = HttpRuleError;

    fn from_str(text: &str) -> Result<Self, HttpRuleError> {
        parse(text).map_err(|(part, problem)| HttpRuleError {
            rule: text.chars().take(MAX_QUOTED_CHARACTERS).collect(),
            column: column(text, part),
            problem,
        })
    }
}

impl fmt::Display for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.methods.is_empty() {
            f.write_str("*")?;
        }
        f.write_str(&self.methods.join(","))?;
        write!(f, " {}", self.host)?;
        self.path.iter().try_for_each(|segment| match segment {
            Segment::Literal(literal) => {
                write!(f, "/{}", utf8_percent_encode(literal, NOT_IN_SEGMENTS))
            }
            Segment::Any => f.write_str("/*"),
        })
    }
}

/// A problem, and the part of the text it is about.
type Failure<'a> = (&'a str, HttpRuleProblem);

/// Returns the column at which the part, which is a slice of the text, begins.
fn column(text: &str, part: &str) -> usize {
    let offset = part.as_ptr().addr() - text.as_ptr().addr();
    1 + text
        .char_indices()
        .take_while(|&(index, _)| index < offset)
        .count()
}

fn parse(text: &str) -> Result<HttpRule, Failure<'_>> {
    let end = &text[text.len()..];
    let mut words = text.split_whitespace();
    let methods = words.next().ok_or((end, HttpRuleProblem::Empty))?;
    let methods = parse_methods(methods)?;
    let target = words.next().ok_or((end, HttpRuleProblem::NoHost))?;
    if let Some(word) = words.next() {
        return Err((word, HttpRuleProblem::TrailingText));
    }
    let (host, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    Ok(HttpRule {
        methods,
        host: parse_host(host)?,
        path: if path.is_empty() {
            vec![Segment::Any]
        } else {
            parse_path(path)?
        },
    })
}

fn parse_methods(text: &str) -> Result<Vec<String>, Failure<'_>> {
    if text == "*" {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|method| {
            let is_method = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
            if method.is_empty() || !method.bytes().all(is_method) {
                return Err((method, HttpRuleProblem::Method));
            }
            Ok(method.to_owned())
        })
        .collect()
}

fn parse_host(text: &str) -> Result<NamePattern, Failure<'_>> {
    if text.is_empty() {
        return Err((text, HttpRuleProblem::NoHost));
    }
    text.parse()
        .map_err(|error| (text, HttpRuleProblem::Host(error)))
}

fn parse_path(text: &str) -> Result<Vec<Segment>, Failure<'_>> {
    if let Some(query) = text.find(['?', '#']) {
        return Err((&text[query..], HttpRuleProblem::Query));
    }
    let path = Path::new(text).map_err(|problem| (text, HttpRuleProblem::Path(problem)))?;
    if path.literal != path.resolved {
        return Err((text, HttpRuleProblem::Path(PathProblem::Dots)));
    }
    // An encoded star is a star of the path, so what is written decides.
    text.split('/')
        .skip(1)
        .zip(path.literal)
        .map(|(written, segment)| match written.find('*') {
            None => Ok(Segment::Literal(segment)),
            Some(_) if written == "*" => Ok(Segment::Any),
            Some(star) => Err((&written[star..], HttpRuleProblem::Wildcard)),
        })
        .collect()
}

/// The segments of a path, decoded.
struct Path {
    /// As they stand.
    literal: Vec<String>,
    /// With dot segments resolved.
    resolved: Vec<String>,
}

impl Path {
    fn new(path: &str) -> Result<Self, PathProblem> {
        let rest = path.strip_prefix('/').ok_or(PathProblem::Relative)?;
        let literal = rest.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
        let has_dots = literal.iter().any(|segment| is_dots(segment));
        let (_, before_last) = literal.split_last().ok_or(PathProblem::Relative)?;
        if has_dots && before_last.iter().any(String::is_empty) {
            return Err(PathProblem::Dots);
        }
        let resolved = resolve(&literal);
        Ok(Self { literal, resolved })
    }
}

/// Decodes one segment.
fn decode(segment: &str) -> Result<String, PathProblem> {
    if escapes(segment).any(|is_escape| !is_escape) {
        return Err(PathProblem::Percent);
    }
    let decoded = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| PathProblem::Encoding)?;
    if decoded.contains(|character: char| matches!(character, '/' | '\\') || character.is_control())
    {
        return Err(PathProblem::Character);
    }
    if escapes(&decoded).any(|is_escape| is_escape) {
        return Err(PathProblem::EncodedTwice);
    }
    // Some servers cut parameters off before they resolve dots: `..;x` is `..` to them.
    if decoded.contains(';') && is_dots(decoded.split(';').next().unwrap_or_default()) {
        return Err(PathProblem::Dots);
    }
    Ok(decoded.into_owned())
}

/// Tells for each `%` whether two hexadecimal digits follow it.
fn escapes(text: &str) -> impl Iterator<Item = bool> {
    text.split('%').skip(1).map(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// Removes dot segments (RFC 3986 §5.2.4).
fn resolve(segments: &[String]) -> Vec<String> {
    let mut resolved = Vec::with_capacity(segments.len());
    for segment in segments {
        match segment.as_str() {
            "." => {}
            ".." => {
                resolved.pop();
            }
            other => resolved.push(other.to_owned()),
        }
    }
    if segments.last().is_some_and(|last| is_dots(last)) {
        resolved.push(String::new());
    }
    resolved
}

/// The rules of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRules(Vec<HttpRule>);

impl HttpRules {
    /// Returns these rules.
    #[must_use]
    pub fn new(rules: Vec<HttpRule>) -> Self {
        Self(rules)
    }

    /// Tells whether a rule is about this host, so that it must be intercepted.
    #[must_use]
    pub fn concern(&self, host: &Name) -> bool {
        self.about(host).next().is_some()
    }

    /// Returns the verdict on a request, or nothing if no rule is about its host.
    #[must_use]
    pub fn request(&self, request: &RequestHead) -> Option<Verdict> {
        let host = request.host.name()?;
        if !self.concern(host) {
            return None;
        }
        let path = match Path::new(&request.path) {
            Ok(path) => path,
            Err(problem) => return Some(Verdict::denied(format!("http path: {problem}"))),
        };
        let rule = self
            .about(host)
            .find(|rule| rule.allows(&request.method, &path));
        Some(match rule {
            Some(rule) => Verdict::allowed(rule.to_string()),
            None => Verdict::denied(format!("no http rule for {host} allows it")),
        })
    }

    fn about(&self, host: &Name) -> impl Iterator<Item = &HttpRule> {
        self.0.iter().filter(|rule| rule.host.matches(host))
    }
}
