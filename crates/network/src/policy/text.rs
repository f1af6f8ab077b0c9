//! A policy as a file has it, which is how `smolvm network show` prints one.
//!
//! ```text
//!   # what the build may reach
//!   restricted
//!     allow pypi.org:443
//!     deny files.example.org
//! ```
//!
//! One rule a line. The mode comes before the rules; left out, it is as in
//! [`NetworkPolicy::asked`]. Lines that are empty or begin with `#` mean nothing.

use std::fmt;
use std::str::FromStr;

use super::{Mode, NetworkPolicy, PolicyError, Rule, RuleError};

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyTextError {
    /// A line is neither a rule nor, before all rules, a mode.
    #[error("line {line}: {error}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it, as a rule.
        error: RuleError,
    },
    /// The mode does not come first, or not alone.
    #[error("line {line}: the mode comes once, before the rules")]
    LateMode {
        /// Its number, from 1.
        line: usize,
    },
    /// There are too many rules.
    #[error(transparent)]
    Count(#[from] PolicyError),
}

impl FromStr for NetworkPolicy {
    type Err = PolicyTextError;

    fn from_str(text: &str) -> Result<Self, PolicyTextError> {
        let mut mode = None;
        let mut rules = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if let Ok(named) = text.parse::<Mode>() {
                if mode.is_some() || !rules.is_empty() {
                    return Err(PolicyTextError::LateMode { line });
                }
                mode = Some(named);
                continue;
            }
            let rule = text.parse::<Rule>();
            rules.push(rule.map_err(|error| PolicyTextError::Line { line, error })?);
        }
        Ok(Self::asked(mode, rules)?)
    }
}

impl fmt::Display for NetworkPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.mode())?;
        for rule in self.rules() {
            writeln!(f, "  {rule}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let error = text.parse::<NetworkPolicy>().expect_err("no policy");
        error.to_string()
    }

    #[test]
    fn what_is_shown_is_read_again() {
        let text = "restricted\n  allow *.example.com:443\n  deny 203.0.113.0/24\n";
        let policy: NetworkPolicy = text.parse().expect("a policy");
        assert_eq!(policy.mode(), Mode::Restricted);
        assert_eq!(policy.rules().len(), 2);
        assert_eq!(policy.to_string(), text);
    }

    #[test]
    fn mode_may_be_left_out_and_comments_mean_nothing() {
        let policy: NetworkPolicy = "# build\r\n\r\nallow pypi.org\r\n"
            .parse()
            .expect("a policy");
        assert_eq!(policy.mode(), Mode::Restricted);
        let policy: NetworkPolicy = "".parse().expect("a policy");
        assert_eq!(policy, NetworkPolicy::default());
    }

    #[test]
    fn error_names_the_line_and_the_column() {
        let wrong = error("open\n\ndeny example.com:0");
        assert!(
            wrong.starts_with("line 3: rule \"deny example.com:0\", column 18"),
            "{wrong}"
        );
        assert!(error("allow a.example\nopen").starts_with("line 2: the mode comes once"));
        assert!(error("open\noff").starts_with("line 2: the mode comes once"));
        assert!(error("closed").starts_with("line 1: rule \"closed\""));
        let many = "allow a.example\n".repeat(NetworkPolicy::MAX_RULES + 1);
        assert!(error(&many).contains("at most 4096"));
    }
}
