//! One secret, and what is legal.

use std::fmt;
use std::sync::Arc;

use crate::{Name, NamePattern};

/// How every placeholder begins.
const PLACEHOLDER_PREFIX: &str = "smolvm-secret-";

/// Random bytes in a placeholder, so that a guest cannot make up one of another sandbox.
const PLACEHOLDER_RANDOM_BYTES: usize = 16;

/// Longest name; also keeps a placeholder within a line of a header.
const MAX_NAME_BYTES: usize = 64;

/// Shortest value. A shorter one would be found by chance in what a host answers.
const MIN_VALUE_BYTES: usize = 6;

/// Longest value: servers refuse headers of more than 8 KiB, as nginx does by default.
const MAX_VALUE_BYTES: usize = 8 * 1024;

/// Why something is not a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The name cannot be that of an environment variable.
    #[error(
        "a secret's name has 1 to {MAX_NAME_BYTES} letters, digits and `_`, and begins with no digit"
    )]
    Name,
    /// The value is too short or too long.
    #[error(
        "the value of secret {name} has {length} bytes; {MIN_VALUE_BYTES} to {MAX_VALUE_BYTES} are possible"
    )]
    Length {
        /// Name of the secret.
        name: String,
        /// Its length.
        length: usize,
    },
    /// The value cannot be in a header.
    #[error(
        "the value of secret {name} has a byte that is not printable ASCII, at offset {offset}"
    )]
    Byte {
        /// Name of the secret.
        name: String,
        /// Where the byte is, from 0.
        offset: usize,
    },
    /// The secret could be sent nowhere.
    #[error("secret {name} has no host that it may be sent to")]
    NoHost {
        /// Name of the secret.
        name: String,
    },
    /// Strangers have names that the pattern is about.
    #[error("secret {name} could be sent to anybody by `{pattern}`; name its hosts")]
    AnyHost {
        /// Name of the secret.
        name: String,
        /// The pattern.
        pattern: String,
    },
    /// A placeholder that was kept is none of this secret's.
    #[error("the placeholder of secret {name} does not have its form")]
    Placeholder {
        /// Name of the secret.
        name: String,
    },
}

/// A secret of a sandbox.
#[derive(Clone)]
pub struct SecretSpec {
    name: Arc<str>,
    placeholder: Arc<str>,
    value: Arc<str>,
    hosts: Vec<NamePattern>,
}

impl SecretSpec {
    /// Returns a secret with a new placeholder.
    ///
    /// # Errors
    ///
    /// When name, value or hosts are not legal.
    ///
    /// # Panics
    ///
    /// When the kernel has no random numbers, which it always has after boot.
    pub fn new(name: &str, value: &str, hosts: Vec<NamePattern>) -> Result<Self, SecretError> {
        let mut random = [0; PLACEHOLDER_RANDOM_BYTES];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .expect("getrandom of a few bytes neither blocks after boot nor fails (getrandom(2))");
        let random = u128::from_ne_bytes(random);
        let placeholder = format!("{PLACEHOLDER_PREFIX}{name}-{random:032x}");
        Self::with_placeholder(name, &placeholder, value, hosts)
    }

    /// Returns a secret whose placeholder a guest has already.
    ///
    /// # Errors
    ///
    /// When one of the parts is not legal.
    pub fn with_placeholder(
        name: &str,
        placeholder: &str,
        value: &str,
        hosts: Vec<NamePattern>,
    ) -> Result<Self, SecretError> {
        if !is_name(name) {
            return Err(SecretError::Name);
        }
        let name = || name.to_owned();
        if !(MIN_VALUE_BYTES..=MAX_VALUE_BYTES).contains(&value.len()) {
            let length = value.len();
            return Err(SecretError::Length {
                name: name(),
                length,
            });
        }
        if let Some(offset) = value
            .bytes()
            .position(|byte| !(b' '..=b'~').contains(&byte))
        {
            return Err(SecretError::Byte {
                name: name(),
                offset,
            });
        }
        if hosts.is_empty() {
            return Err(SecretError::NoHost { name: name() });
        }
        if let Some(pattern) = hosts.iter().find(|pattern| is_anybodys(pattern)) {
            let pattern = pattern.to_string();
            return Err(SecretError::AnyHost {
                name: name(),
                pattern,
            });
        }
        if !is_placeholder(placeholder, &name()) {
            return Err(SecretError::Placeholder { name: name() });
        }
        Ok(Self {
            name: name().into(),
            placeholder: placeholder.into(),
            value: value.into(),
            hosts,
        })
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the guest gets.
    #[must_use]
    pub fn placeholder(&self) -> &str {
        &self.placeholder
    }

    /// Returns what its hosts get. It is to be kept where only its owner reads.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns the hosts that it may be sent to.
    #[must_use]
    pub fn hosts(&self) -> &[NamePattern] {
        &self.hosts
    }

    /// Tells whether the secret may be sent to this host.
    #[must_use]
    pub fn is_for(&self, host: &Name) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }

    pub(super) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub(super) fn shared_value(&self) -> Arc<str> {
        Arc::clone(&self.value)
    }
}

/// Without the value.
impl fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSpec")
            .field("name", &self.name)
            .field("placeholder", &self.placeholder)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_anybodys(pattern: &NamePattern) -> bool {
    matches!(pattern, NamePattern::Any) || pattern.is_below_public_suffix()
}

fn is_placeholder(text: &str, name: &str) -> bool {
    text.strip_prefix(PLACEHOLDER_PREFIX)
        .and_then(|rest| rest.strip_prefix(name))
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|random| {
            random.len() == 2 * PLACEHOLDER_RANDOM_BYTES
                && random
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
}
