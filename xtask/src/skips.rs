//! Skipped tests: announced, counted and limited.
//!
//! A test that cannot run on this host says so with `eprintln!("SKIPPED <name>: <reason>")` and
//! passes. A skip that nobody expects is a test that nobody runs, so their number has a limit.

use std::error::Error;
use std::fmt;

/// Most tests that may be skipped on a host of the kind that CI uses: none. Whoever makes a test
/// that such a host cannot run raises the number and says why here.
pub(crate) const MAX_SKIPPED: usize = 0;

const MARK: &str = "SKIPPED ";

/// A test that announced that it was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    name: String,
    reason: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.name, self.reason)
    }
}

/// More tests were skipped than [`MAX_SKIPPED`].
#[derive(Debug)]
pub(crate) struct TooManySkipped {
    skipped: usize,
}

impl fmt::Display for TooManySkipped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} tests were skipped, at most {MAX_SKIPPED} may be",
            self.skipped
        )
    }
}

impl Error for TooManySkipped {}

/// Returns the announcement in a line of test output, if there is one.
pub(crate) fn find(line: &str) -> Option<Skip> {
    let announcement = line.trim().strip_prefix(MARK)?;
    let (name, reason) = announcement.split_once(": ")?;
    Some(Skip {
        name: name.to_owned(),
        reason: reason.to_owned(),
    })
}

/// Returns the announcements in a JUnit report, where output is the escaped text of elements.
pub(crate) fn find_in_junit(report: &str) -> Vec<Skip> {
    let texts = report.split(['<', '\n']).map(|piece| {
        // After a '<' comes the rest of a tag, then text.
        piece.split_once('>').map_or(piece, |(_, text)| text)
    });
    texts.filter_map(|text| find(&unescaped(text))).collect()
}

/// Replaces the predefined entities (XML 1.0 §4.6).
fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

/// Shows what was skipped and why.
///
/// # Errors
///
/// When more tests were skipped than may be.
pub(crate) fn report(skips: &[Skip]) -> Result<(), TooManySkipped> {
    for skip in skips {
        eprintln!("skipped {skip}");
    }
    eprintln!(
        "{} tests skipped (at most {MAX_SKIPPED} may be)",
        skips.len()
    );
    if skips.len() > MAX_SKIPPED {
        return Err(TooManySkipped {
            skipped: skips.len(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(name: &str, reason: &str) -> Skip {
        Skip {
            name: name.to_owned(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn announcement_gives_name_and_reason() {
        let found = find("SKIPPED boots_on_kvm: ring 0 is emulated: no KVM");
        assert_eq!(
            found,
            Some(skip("boots_on_kvm", "ring 0 is emulated: no KVM"))
        );
    }

    #[test]
    fn other_output_is_no_announcement() {
        assert_eq!(find("test skipped_is_counted ... ok"), None);
        assert_eq!(find("they were SKIPPED a: b"), None);
    }

    #[test]
    fn junit_report_gives_every_announcement_unescaped() {
        let report = "<testcase name=\"a\">\n\
            <system-err>SKIPPED a: needs &lt;kvm&gt;\nmore</system-err>\n\
            </testcase><testcase name=\"b\"><system-err>first\n\
            SKIPPED b: no &amp; never</system-err></testcase>";
        let expected = vec![skip("a", "needs <kvm>"), skip("b", "no & never")];
        assert_eq!(find_in_junit(report), expected);
    }

    #[test]
    fn one_skip_more_than_expected_is_an_error() {
        let skips = vec![skip("a", "b"); MAX_SKIPPED + 1];
        assert!(report(&skips).is_err());
        assert!(report(&skips[1..]).is_ok());
    }
}
