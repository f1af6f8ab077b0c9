//! Why the gateway answers a request itself, and how.

use std::error::Error;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::{Body, BodyError, text};
use super::head::BadRequest;
use super::upstream::UpstreamError;
use crate::secrets::SecretRefused;

/// Why the gateway answers a request itself.
pub(super) enum Refusal {
    Bad(BadRequest),
    Denied(String),
    Secret(SecretRefused),
    Body(BodyError),
    Upstream(UpstreamError),
}

impl From<BadRequest> for Refusal {
    fn from(bad: BadRequest) -> Self {
        Self::Bad(bad)
    }
}

impl From<SecretRefused> for Refusal {
    fn from(refused: SecretRefused) -> Self {
        Self::Secret(refused)
    }
}

impl Refusal {
    pub(super) fn into_response(self) -> Response<Body> {
        let (status, reason) = match self {
            Self::Bad(bad) => {
                let status = bad.status.canonical_reason().unwrap_or_default();
                let status = status.to_ascii_lowercase();
                (bad.status, format!("{status}: {}", bad.reason))
            }
            Self::Denied(rule) => (StatusCode::FORBIDDEN, format!("denied by smolvm: {rule}")),
            Self::Secret(refused) | Self::Body(BodyError::Secret(refused)) => (
                StatusCode::FORBIDDEN,
                format!("denied by smolvm: {refused}"),
            ),
            Self::Body(BodyError::Sender(error)) => {
                (StatusCode::BAD_REQUEST, format!("bad request: {error}"))
            }
            Self::Upstream(error) => {
                let reason = format!("bad gateway: {}", chain(&error));
                (StatusCode::BAD_GATEWAY, reason)
            }
        };
        let mut response = Response::new(text(reason + "\n"));
        *response.status_mut() = status;
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }
}

/// Returns an error with its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace(['\r', '\n'], " ")
}
