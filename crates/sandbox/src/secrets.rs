//! Secrets of a sandbox, and the rules for its requests: what is kept where, and what the gateway
//! makes of it.
//!
//! ```text
//!   spec.json        names, placeholders and hosts; HTTP rules
//!   secrets.json     values by name                                  only its owner reads it
//!   authority.pem    the sandbox's certificate authority with key    only its owner reads it
//! ```
//!
//! The guest has the placeholders, as environment variables, and trusts the authority. Nothing
//! else on the host has a value: no log, no plan, no message of an error.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use smolvm_network::{
    Authority, AuthorityError, ContentConfig, HttpRule, HttpRuleError, HttpRules, Interceptor,
    NamePattern, RootsError, SecretError, SecretSpec, Secrets, UpstreamTls,
};

use crate::record::{self, RecordError, SandboxDir};
use crate::{ErrorKind, SandboxSpec};

/// Most secrets of a sandbox: of the longest values, they are half of what a file of this kind
/// may have.
pub const MAX_SECRETS: usize = 64;

/// A secret as its sandbox's specification has it: without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretGrant {
    /// Its name, which is that of the guest's environment variable.
    pub name: String,
    /// What the guest has instead of the value.
    pub placeholder: String,
    /// The hosts that get the value.
    pub hosts: Vec<NamePattern>,
}

impl SecretGrant {
    /// Returns what a specification says of a secret.
    #[must_use]
    pub fn of(secret: &SecretSpec) -> Self {
        Self {
            name: secret.name().to_owned(),
            placeholder: secret.placeholder().to_owned(),
            hosts: secret.hosts().to_vec(),
        }
    }
}

/// Why a sandbox's secrets or rules for requests cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// There are too many.
    #[error("{count} secrets; a sandbox has at most {MAX_SECRETS}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Two of them would be one variable.
    #[error("secret {name} is there twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// The value of one is missing.
    #[error("the value of secret {name} is not kept")]
    Missing {
        /// The name.
        name: String,
    },
    /// One is not legal.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A rule for requests is not one.
    #[error(transparent)]
    Rule(#[from] HttpRuleError),
    /// The file with the values cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The authority's file cannot be used.
    #[error("use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no authority.
    #[error("set up the sandbox's certificate authority")]
    Authority(#[from] AuthorityError),
    /// Servers cannot be verified.
    #[error("verify servers")]
    Roots(#[from] RootsError),
}

impl SecretsError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::TooMany { .. } | Self::Twice { .. } | Self::Secret(_) | Self::Rule(_) => {
                ErrorKind::InvalidInput
            }
            Self::Record(error) => error.kind(),
            Self::Missing { .. } | Self::File { .. } | Self::Authority(_) | Self::Roots(_) => {
                ErrorKind::Host
            }
        }
    }
}

/// Values as they are kept. Without `Debug`, so that nothing prints them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValuesFile {
    values: BTreeMap<String, String>,
}

/// What the gateway does with the content of a sandbox's connections.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) config: ContentConfig,
    /// The certificate, in PEM, that the guest is to trust.
    pub(crate) ca_certificate: Option<String>,
}

/// Checks secrets and rules of a sandbox that is to be made.
pub(crate) fn check(spec: &SandboxSpec, secrets: &[SecretSpec]) -> Result<(), SecretsError> {
    if secrets.len() > MAX_SECRETS {
        return Err(SecretsError::TooMany {
            count: secrets.len(),
        });
    }
    for (index, secret) in secrets.iter().enumerate() {
        let is_same = |other: &SecretSpec| other.name() == secret.name();
        if secrets.iter().skip(index + 1).any(is_same) {
            let name = secret.name().to_owned();
            return Err(SecretsError::Twice { name });
        }
    }
    rules(spec)?;
    Ok(())
}

/// Keeps the values of a new sandbox, and an authority for it, if it needs one.
pub(crate) fn keep(
    spec: &SandboxSpec,
    secrets: &[SecretSpec],
    directory: &SandboxDir,
) -> Result<(), SecretsError> {
    if !is_needed(spec) {
        return Ok(());
    }
    let value = |secret: &SecretSpec| (secret.name().to_owned(), secret.value().to_owned());
    let values = secrets.iter().map(value).collect();
    record::write_json(&directory.secrets(), &ValuesFile { values })?;
    let path = directory.authority();
    record::write_private(&path, Authority::new()?.to_pem().as_bytes())
        .map_err(|source| SecretsError::File { path, source })
}

/// Returns what the gateway does with the content of a sandbox's connections.
pub(crate) fn content(spec: &SandboxSpec, directory: &SandboxDir) -> Result<Content, SecretsError> {
    if !is_needed(spec) {
        return Ok(Content::default());
    }
    let mut kept: ValuesFile = record::read_json(&directory.secrets())?;
    let secret = |grant: &SecretGrant| {
        let value = kept.values.remove(&grant.name);
        let value = value.ok_or_else(|| SecretsError::Missing {
            name: grant.name.clone(),
        })?;
        let (name, hosts) = (&grant.name, grant.hosts.clone());
        let secret = SecretSpec::with_placeholder(name, &grant.placeholder, &value, hosts);
        Ok::<_, SecretsError>(secret?)
    };
    let secrets = spec.secrets.iter().map(secret).collect::<Result<_, _>>()?;
    let path = directory.authority();
    let pem =
        std::fs::read_to_string(&path).map_err(|source| SecretsError::File { path, source })?;
    let authority = Authority::from_pem(&pem)?;
    let ca_certificate = authority.certificate_pem().to_owned();
    let interceptor = Interceptor::new(authority, UpstreamTls::with_host_roots()?);
    Ok(Content {
        config: ContentConfig {
            secrets: Secrets::new(secrets),
            rules: HttpRules::new(rules(spec)?),
            interceptor: Some(interceptor),
        },
        ca_certificate: Some(ca_certificate),
    })
}

/// Returns the variables that the guest has instead of secrets.
pub(crate) fn placeholders(spec: &SandboxSpec) -> BTreeMap<String, String> {
    let variable = |grant: &SecretGrant| (grant.name.clone(), grant.placeholder.clone());
    spec.secrets.iter().map(variable).collect()
}

fn is_needed(spec: &SandboxSpec) -> bool {
    !spec.secrets.is_empty() || !spec.http_rules.is_empty()
}

fn rules(spec: &SandboxSpec) -> Result<Vec<HttpRule>, HttpRuleError> {
    spec.http_rules.iter().map(|rule| rule.parse()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{Lifetime, SandboxId};

    const VALUE: &str = "sk-live-0123456789";

    fn secret(name: &str) -> SecretSpec {
        let host = "api.example.com".parse().expect("a name");
        SecretSpec::new(name, VALUE, vec![host]).expect("a secret")
    }

    fn spec(secrets: &[SecretSpec], rules: &[&str]) -> SandboxSpec {
        SandboxSpec {
            secrets: secrets.iter().map(SecretGrant::of).collect(),
            http_rules: rules.iter().map(|&rule| rule.to_owned()).collect(),
            ..SandboxSpec::new(SandboxId::random(), Lifetime::Leased)
        }
    }

    fn directory() -> (tempfile::TempDir, SandboxDir) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let files = SandboxDir::new(directory.path().to_owned());
        (directory, files)
    }

    #[test]
    fn what_was_kept_is_what_the_gateway_gets() {
        let (_guard, directory) = directory();
        let secrets = [secret("KEY"), secret("TOKEN")];
        let spec = spec(&secrets, &["GET api.example.com/v1/*"]);
        keep(&spec, &secrets, &directory).expect("kept");
        let content = content(&spec, &directory).expect("read");
        let host = "api.example.com".parse().expect("a name");
        assert!(content.config.secrets.concern(&host));
        assert!(content.config.rules.concern(&host));
        assert!(content.config.interceptor.is_some());
        let certificate = content.ca_certificate.expect("a certificate");
        assert!(certificate.contains("BEGIN CERTIFICATE"));
        assert!(!certificate.contains("PRIVATE KEY"));
    }

    #[test]
    fn values_and_key_are_their_owner_s_alone_and_nowhere_else() {
        let (_guard, directory) = directory();
        let secrets = [secret("KEY")];
        let spec = spec(&secrets, &[]);
        keep(&spec, &secrets, &directory).expect("kept");
        directory.write_spec(&spec).expect("written");
        let mode = |path: PathBuf| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(directory.secrets()), 0o600);
        assert_eq!(mode(directory.authority()), 0o600);
        let spec_file = std::fs::read_to_string(directory.path().join("spec.json")).expect("text");
        assert!(spec_file.contains(secrets[0].placeholder()));
        assert!(!spec_file.contains(VALUE));
    }

    #[test]
    fn sandbox_without_secrets_and_rules_has_no_files_for_them() {
        let (_guard, directory) = directory();
        let spec = spec(&[], &[]);
        keep(&spec, &[], &directory).expect("nothing to do");
        assert!(!directory.secrets().exists() && !directory.authority().exists());
        let content = content(&spec, &directory).expect("nothing to read");
        assert!(content.config.interceptor.is_none() && content.ca_certificate.is_none());
    }

    #[test]
    fn what_is_not_legal_is_named_before_anything_is_made() {
        let twice = [secret("KEY"), secret("KEY")];
        let error = check(&spec(&twice, &[]), &twice).expect_err("twice");
        assert_eq!(error.to_string(), "secret KEY is there twice");
        let error = check(&spec(&[], &["get a.example"]), &[]).expect_err("no method");
        assert!(error.to_string().contains("column 1"), "{error}");
    }

    #[test]
    fn value_that_is_gone_is_an_error_that_names_the_secret() {
        let (_guard, directory) = directory();
        let kept = [secret("KEY")];
        keep(&spec(&kept, &[]), &kept, &directory).expect("kept");
        let error = content(&spec(&[secret("TOKEN")], &[]), &directory).expect_err("not kept");
        assert_eq!(error.to_string(), "the value of secret TOKEN is not kept");
    }
}
