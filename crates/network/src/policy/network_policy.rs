//! A policy as it is written and saved.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Action, Rule};

/// Why a policy is not legal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More rules than a policy may have.
    #[error("{count} rules; a policy has at most {}", NetworkPolicy::MAX_RULES)]
    TooManyRules {
        /// How many there are.
        count: usize,
    },
    /// The mode's name is not known.
    #[error("unknown network mode {mode:?}: use off, restricted or open")]
    Mode {
        /// The name as given, cut to a printable length.
        mode: String,
    },
}

/// What is decided where no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is allowed, not even by rules.
    Off,
    /// What no rule allows is denied.
    Restricted,
    /// What no rule denies is allowed. What a new sandbox has.
    #[default]
    Open,
}

impl Mode {
    /// Returns what a [`Verdict`](crate::Verdict) names as its rule.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Off => "mode: off",
            Self::Restricted => "mode: restricted",
            Self::Open => "mode: open",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Restricted => "restricted",
            Self::Open => "open",
        })
    }
}

impl FromStr for Mode {
    type Err = PolicyError;

    fn from_str(mode: &str) -> Result<Self, PolicyError> {
        match mode {
            "off" => Ok(Self::Off),
            "restricted" => Ok(Self::Restricted),
            "open" => Ok(Self::Open),
            _ => Err(PolicyError::Mode {
                mode: mode.chars().take(40).collect(),
            }),
        }
    }
}

/// What a sandbox may reach: a mode, and rules that make exceptions to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PolicyFields")]
pub struct NetworkPolicy {
    mode: Mode,
    rules: Vec<Rule>,
}

/// A policy as it is saved, before its rules are counted.
#[derive(Deserialize)]
#[serde(rename = "NetworkPolicy", deny_unknown_fields)]
struct PolicyFields {
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    rules: Vec<Rule>,
}

impl NetworkPolicy {
    /// Most rules of a policy. They are about as long as a line, so that the whole stays below half
    /// a megabyte wherever it is sent.
    pub const MAX_RULES: usize = 4096;

    /// Returns a policy.
    ///
    /// # Errors
    ///
    /// When there are too many rules.
    pub fn new(mode: Mode, rules: Vec<Rule>) -> Result<Self, PolicyError> {
        if rules.len() > Self::MAX_RULES {
            return Err(PolicyError::TooManyRules { count: rules.len() });
        }
        Ok(Self { mode, rules })
    }

    /// Returns the policy that somebody asks for who need not say the mode: who says what is
    /// allowed does not mean everything else as well.
    ///
    /// # Errors
    ///
    /// When there are too many rules.
    pub fn asked(mode: Option<Mode>, rules: Vec<Rule>) -> Result<Self, PolicyError> {
        let has_allowed = rules.iter().any(|rule| rule.action() == Action::Allow);
        let default = if has_allowed {
            Mode::Restricted
        } else {
            Mode::default()
        };
        Self::new(mode.unwrap_or(default), rules)
    }

    /// Returns the mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the rules, in the order in which they were written.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl TryFrom<PolicyFields> for NetworkPolicy {
    type Error = PolicyError;

    fn try_from(fields: PolicyFields) -> Result<Self, PolicyError> {
        Self::new(fields.mode, fields.rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_open_without_rules() {
        let policy = NetworkPolicy::default();
        assert_eq!(policy.mode(), Mode::Open);
        assert!(policy.rules().is_empty());
        assert_eq!(
            serde_json::from_str::<NetworkPolicy>("{}").expect("legal"),
            policy
        );
    }

    #[test]
    fn policy_is_saved_as_text() {
        let text =
            r#"{"mode":"restricted","rules":["allow *.example.com:443","deny 203.0.113.0/24"]}"#;
        let policy: NetworkPolicy = serde_json::from_str(text).expect("legal");
        assert_eq!(serde_json::to_string(&policy).expect("saved"), text);
    }

    #[test]
    fn unknown_field_and_wrong_rule_are_errors_that_say_what() {
        let unknown =
            serde_json::from_str::<NetworkPolicy>(r#"{"domains":[]}"#).expect_err("unknown");
        assert!(unknown.to_string().contains("`domains`"), "{unknown}");
        let wrong = serde_json::from_str::<NetworkPolicy>(r#"{"rules":["allow a.b:0"]}"#)
            .expect_err("port 0");
        assert!(
            wrong
                .to_string()
                .contains(r#"rule "allow a.b:0", column 11"#),
            "{wrong}"
        );
    }

    #[test]
    fn too_many_rules_are_an_error() {
        let rule: Rule = "allow example.com".parse().expect("a rule");
        let rules = vec![rule; NetworkPolicy::MAX_RULES + 1];
        assert_eq!(
            NetworkPolicy::new(Mode::Open, rules),
            Err(PolicyError::TooManyRules { count: 4097 })
        );
    }
}
