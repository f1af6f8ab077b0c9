//! The policy that earlier versions of the Python package spell as `internet_settings`.

use super::{Mode, NetworkPolicy, PolicyError, Rule, RuleError};

/// Why `internet_settings` are not legal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The mode is not known.
    #[error("internet_settings[\"mode\"]: {0}")]
    Mode(PolicyError),
    /// A network is not legal.
    #[error("internet_settings[\"allowed_cidrs\"][{index}]: {error}")]
    Cidr {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it, as a rule.
        error: RuleError,
    },
    /// A domain is not legal.
    #[error("internet_settings[\"allowed_domains\"][{index}]: {error}")]
    Domain {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it, as a rule.
        error: RuleError,
    },
    /// There are too many of them.
    #[error("internet_settings: {0}")]
    Count(PolicyError),
}

/// Returns the policy that `internet_settings` mean: networks are allowed on all ports of all
/// protocols, domains on all TCP ports. A network that holds both public and protected addresses,
/// such as `0.0.0.0/0`, allows the public ones. A domain may be written as the URL of its site.
/// Without a mode, a list of somebody is what is allowed, and no list or `*` allows everybody.
///
/// # Errors
///
/// When a value is not legal; the error names the field.
pub fn from_internet_settings(
    mode: Option<&str>,
    allowed_cidrs: &[String],
    allowed_domains: &[String],
) -> Result<NetworkPolicy, SettingsError> {
    let mode = match mode {
        Some(mode) => mode.parse().map_err(SettingsError::Mode)?,
        None if allowed_cidrs.is_empty() && is_everybody(allowed_domains) => Mode::Open,
        None => Mode::Restricted,
    };
    let networks = allowed_cidrs.iter().enumerate().map(|(index, cidr)| {
        format!("allow {cidr}/any")
            .parse::<Rule>()
            .map_err(|error| SettingsError::Cidr { index, error })
    });
    let domains = allowed_domains.iter().enumerate().map(|(index, domain)| {
        format!("allow {}", host_of(domain))
            .parse::<Rule>()
            .map_err(|error| SettingsError::Domain { index, error })
    });
    let rules = networks.chain(domains).collect::<Result<_, _>>()?;
    NetworkPolicy::new(mode, rules).map_err(SettingsError::Count)
}

fn is_everybody(domains: &[String]) -> bool {
    domains.iter().all(|domain| domain == "*")
}

/// Returns the host of a URL without a path; anything else as it is, for the rule to complain of.
fn host_of(domain: &str) -> &str {
    ["https://", "http://"]
        .iter()
        .find_map(|scheme| domain.strip_prefix(scheme))
        .map_or(domain, |rest| rest.strip_suffix('/').unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn settings_become_rules() {
        let policy = from_internet_settings(
            Some("restricted"),
            &texts(&["10.0.0.0/8", "2001:db8::/32"]),
            &texts(&["example.com", "*.example.org"]),
        )
        .expect("legal");
        assert_eq!(policy.mode(), Mode::Restricted);
        let rules: Vec<String> = policy.rules().iter().map(ToString::to_string).collect();
        assert_eq!(
            rules,
            [
                "allow 10.0.0.0/8/any",
                "allow 2001:db8::/32/any",
                "allow example.com",
                "allow *.example.org"
            ]
        );
    }

    #[test]
    fn without_a_mode_a_list_is_all_that_is_allowed() {
        let policy = |cidrs: &[&str], domains: &[&str]| {
            from_internet_settings(None, &texts(cidrs), &texts(domains)).expect("legal")
        };
        let listed = policy(&[], &["https://api.example.com", "http://example.org/"]);
        assert_eq!(listed.mode(), Mode::Restricted);
        let rules: Vec<String> = listed.rules().iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["allow api.example.com", "allow example.org"]);
        assert_eq!(policy(&["203.0.113.0/24"], &[]).mode(), Mode::Restricted);
        assert_eq!(policy(&[], &["*"]).mode(), Mode::Open);
        assert_eq!(policy(&[], &[]).mode(), Mode::Open);
    }

    #[test]
    fn errors_name_the_field() {
        let error = from_internet_settings(Some("closed"), &[], &[]).expect_err("mode");
        assert_eq!(
            error.to_string(),
            "internet_settings[\"mode\"]: unknown network mode \"closed\": use off, restricted or open"
        );
        let error =
            from_internet_settings(Some("open"), &texts(&["10.0.0.0/8", "10.0.0.1/8"]), &[])
                .expect_err("host bits");
        assert!(
            error
                .to_string()
                .starts_with("internet_settings[\"allowed_cidrs\"][1]: rule "),
            "{error}"
        );
        let error = from_internet_settings(Some("open"), &[], &texts(&["exa mple.com"]))
            .expect_err("space");
        assert!(
            error
                .to_string()
                .starts_with("internet_settings[\"allowed_domains\"][0]: rule "),
            "{error}"
        );
    }
}
