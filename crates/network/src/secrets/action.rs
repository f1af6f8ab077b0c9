//! What is done with a text that was found.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What is encoded in paths, queries and forms: all but the unreserved characters (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A placeholder was sent where its secret may not go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("secret {name} is not sent: {reason}")]
pub struct SecretRefused {
    /// Name of the secret.
    pub name: Arc<str>,
    /// Why not.
    pub reason: &'static str,
}

/// What is done with a text that was found. Holds values, so it is never shown.
#[derive(Clone)]
pub(super) enum Action {
    /// A placeholder becomes its value.
    Put { name: Arc<str>, value: Arc<str> },
    /// A placeholder is refused.
    Refuse(SecretRefused),
    /// A value is hidden.
    Hide {
        placeholder: Arc<str>,
        value_bytes: usize,
    },
}

/// Without the value.
impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Put { .. } => "Put",
            Self::Refuse(_) => "Refuse",
            Self::Hide { .. } => "Hide",
        })
    }
}

/// How a text is written where it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In a header's value.
    Header,
    /// In a path, a query or a form.
    Percent,
    /// In a string of JSON.
    Json,
    /// As it is.
    Raw,
    /// Where it cannot be put in, for this reason.
    Refused(&'static str),
}

impl Form {
    /// Returns how texts are written in a body of this type.
    pub(super) fn of_body(content_type: Option<&HeaderValue>) -> Self {
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let kind = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        if kind == "application/x-www-form-urlencoded" {
            Self::Percent
        } else if kind.ends_with("/json") || kind.ends_with("+json") {
            Self::Json
        } else {
            Self::Raw
        }
    }
}

impl Action {
    /// Returns what a text becomes, and the name of the secret that is put in.
    pub(super) fn apply(&self, form: Form) -> Result<(Bytes, Option<Arc<str>>), SecretRefused> {
        match self {
            Self::Refuse(refused) => Err(refused.clone()),
            Self::Put { name, value } => match form {
                Form::Refused(reason) => Err(SecretRefused {
                    name: Arc::clone(name),
                    reason,
                }),
                _ => Ok((encode(value, form).into(), Some(Arc::clone(name)))),
            },
            Self::Hide { placeholder, .. } if form == Form::Header => {
                Ok((Bytes::copy_from_slice(placeholder.as_bytes()), None))
            }
            Self::Hide { value_bytes, .. } => Ok((vec![b'*'; *value_bytes].into(), None)),
        }
    }
}

fn encode(value: &str, form: Form) -> String {
    match form {
        Form::Percent => utf8_percent_encode(value, RESERVED).to_string(),
        Form::Json => value.replace('\\', "\\\\").replace('"', "\\\""),
        Form::Header | Form::Raw | Form::Refused(_) => value.to_owned(),
    }
}

/// Returns the different ways in which a value may be written.
pub(super) fn spellings(value: &str) -> impl Iterator<Item = String> + use<> {
    let forms = [Form::Raw, Form::Percent, Form::Json];
    let spellings: BTreeSet<String> = forms.map(|form| encode(value, form)).into();
    spellings.into_iter()
}
