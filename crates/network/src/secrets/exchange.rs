//! What is done to the requests and responses of one connection to one host.

use std::sync::Arc;

use base64ct::{Base64, Base64Unpadded, Encoding as _};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use hyper::{HeaderMap, header::HeaderValue};

use super::action::{Action, Form, SecretRefused, spellings};
use super::findings::Findings;
use super::needles::Needles;
use super::rewriter::Rewriter;
use super::spec::SecretSpec;
use crate::Name;

/// Longest body of a declared length in which placeholders are replaced, in bytes. It is held in
/// memory, as its new length must be told first. API requests are far shorter; uploads are not,
/// and have no secrets in them.
pub const MAX_REWRITTEN_BODY_BYTES: u64 = 1024 * 1024;

/// What is looked for on a connection, and what is done with it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// Placeholders, in requests.
    requests: Arc<Needles<Action>>,
    /// Values, in responses.
    responses: Arc<Needles<Action>>,
}

impl Exchange {
    /// Returns what is done toward a host whose TLS is intercepted, or without TLS.
    pub(super) fn new(secrets: &[SecretSpec], intercepted: Option<&Name>) -> Self {
        let is_for = |secret: &&SecretSpec| intercepted.is_some_and(|host| secret.is_for(host));
        let requests = secrets.iter().map(|secret| {
            let name = secret.shared_name();
            let action = if is_for(&secret) {
                let value = secret.shared_value();
                Action::Put { name, value }
            } else {
                let reason = match intercepted {
                    Some(_) => "it is not for this host",
                    None => "it is sent over intercepted TLS only",
                };
                Action::Refuse(SecretRefused { name, reason })
            };
            (secret.placeholder().to_owned(), action)
        });
        let responses = secrets.iter().filter(is_for).flat_map(|secret| {
            spellings(&secret.shared_value()).map(|value| {
                let action = Action::Hide {
                    placeholder: secret.placeholder().into(),
                    value_bytes: value.len(),
                };
                (value, action)
            })
        });
        Self {
            requests: Arc::new(Needles::new(requests)),
            responses: Arc::new(Needles::new(responses)),
        }
    }

    /// Tells whether there is something to look for in requests.
    pub(crate) fn reads_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Tells whether there is something to look for in responses.
    pub(crate) fn reads_responses(&self) -> bool {
        !self.responses.is_empty()
    }

    /// Refuses placeholders in a method, a host or the name of a header.
    pub(crate) fn refuse_in_name(
        &self,
        name: &str,
        findings: &Findings,
    ) -> Result<(), SecretRefused> {
        let form = Form::Refused("it is put into values, and this is a name");
        rewrite(&self.requests, name.as_bytes(), form, findings).map(drop)
    }

    /// Puts secrets into the headers or trailers of a request.
    pub(crate) fn put_into_headers(
        &self,
        headers: &mut HeaderMap,
        findings: &Findings,
    ) -> Result<(), SecretRefused> {
        for (name, value) in headers.iter_mut() {
            self.refuse_in_name(name.as_str(), findings)?;
            let mut new = rewrite(&self.requests, value.as_bytes(), Form::Header, findings)?;
            if new.is_none() && name == AUTHORIZATION {
                new = self.rewrite_basic(value.as_bytes(), findings)?;
            }
            if let Some(new) = new.and_then(|new| HeaderValue::from_bytes(&new).ok()) {
                *value = new;
                value.set_sensitive(true);
            }
        }
        Ok(())
    }

    /// Puts secrets into path and query. Returns nothing if there are none in them.
    pub(crate) fn put_into_path(
        &self,
        path_and_query: &str,
        findings: &Findings,
    ) -> Result<Option<Vec<u8>>, SecretRefused> {
        rewrite(
            &self.requests,
            path_and_query.as_bytes(),
            Form::Percent,
            findings,
        )
    }

    /// Returns what puts secrets into the body of a request.
    pub(crate) fn put_into_body(&self, headers: &HeaderMap, findings: Findings) -> Rewriter {
        let form = Form::of_body(headers.get(CONTENT_TYPE));
        Rewriter::new(Arc::clone(&self.requests), form, findings)
    }

    /// Returns what refuses placeholders in the body of a request.
    pub(crate) fn refuse_in_body(&self, findings: Findings) -> Rewriter {
        let form = Form::Refused("the body is too long to put it in");
        Rewriter::new(Arc::clone(&self.requests), form, findings)
    }

    /// Hides secrets in the headers or trailers of a response.
    pub(crate) fn hide_in_headers(&self, headers: &mut HeaderMap) {
        let findings = Findings::default();
        for value in headers.values_mut() {
            let new = rewrite(&self.responses, value.as_bytes(), Form::Header, &findings);
            // Nothing is refused in responses.
            if let Some(new) = new.ok().flatten()
                && let Ok(new) = HeaderValue::from_bytes(&new)
            {
                *value = new;
            }
        }
    }

    /// Returns what hides secrets in the body of a response.
    pub(crate) fn hide_in_body(&self) -> Rewriter {
        let responses = Arc::clone(&self.responses);
        Rewriter::new(responses, Form::Raw, Findings::default())
    }

    /// Puts secrets into `Basic` credentials (RFC 7617 §2), which are in base64.
    fn rewrite_basic(
        &self,
        value: &[u8],
        findings: &Findings,
    ) -> Result<Option<Vec<u8>>, SecretRefused> {
        let Some(encoded) = str::from_utf8(value).ok().and_then(basic_credentials) else {
            return Ok(None);
        };
        let decoded = Base64::decode_vec(encoded).or_else(|_| Base64Unpadded::decode_vec(encoded));
        let Ok(decoded) = decoded else {
            return Ok(None);
        };
        let new = rewrite(&self.requests, &decoded, Form::Header, findings)?;
        Ok(new.map(|new| format!("Basic {}", Base64::encode_string(&new)).into_bytes()))
    }
}

/// Returns the credentials of an `Authorization` that is `Basic`.
fn basic_credentials(value: &str) -> Option<&str> {
    let (scheme, credentials) = value.trim().split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("basic")
        .then_some(credentials.trim())
}

/// Tells whether a body is compressed, so that nothing can be found in it.
pub(crate) fn is_compressed(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| coding != "identity")
}

/// Rewrites a whole text. Returns nothing when nothing is found.
fn rewrite(
    needles: &Arc<Needles<Action>>,
    text: &[u8],
    form: Form,
    findings: &Findings,
) -> Result<Option<Vec<u8>>, SecretRefused> {
    if needles.find(text).is_none() {
        return Ok(None);
    }
    let mut rewriter = Rewriter::new(Arc::clone(needles), form, findings.clone());
    let text = bytes::Bytes::copy_from_slice(text);
    let mut new = rewriter.push(text)?.to_vec();
    new.extend_from_slice(&rewriter.finish());
    Ok(Some(new))
}
