//! Bodies on their way through.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::secrets::{Exchange, Findings, Rewriter, SecretRefused};

/// A body of either side.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Who sends it failed.
    #[error("body ended early")]
    Sender(#[source] hyper::Error),
    /// It has a placeholder that is not sent.
    #[error(transparent)]
    Secret(#[from] SecretRefused),
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        Self::Sender(error)
    }
}

/// Returns a body of one text.
pub(super) fn text(text: String) -> Body {
    Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// What is done to the trailers of a body.
#[derive(Debug)]
pub(super) enum Trailers {
    /// Secrets are put in.
    Put(Exchange, Findings),
    /// Secrets are hidden.
    Hide(Exchange),
}

impl Trailers {
    fn apply(&self, trailers: &mut HeaderMap) -> Result<(), SecretRefused> {
        match self {
            Self::Put(exchange, findings) => exchange.put_into_headers(trailers, findings),
            Self::Hide(exchange) => {
                exchange.hide_in_headers(trailers);
                Ok(())
            }
        }
    }
}

/// A body in which texts are replaced as it streams.
#[derive(Debug)]
pub(super) struct Rewritten<B> {
    inner: B,
    rewriter: Rewriter,
    trailers: Trailers,
    /// Trailers that follow what was held back.
    waiting: Option<HeaderMap>,
}

impl<B> Rewritten<B> {
    pub(super) fn new(inner: B, rewriter: Rewriter, trailers: Trailers) -> Self {
        Self {
            inner,
            rewriter,
            trailers,
            waiting: None,
        }
    }
}

impl<B> HttpBody for Rewritten<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(trailers) = this.waiting.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        loop {
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
            let frame = frame.transpose().map_err(Into::into)?;
            let data = match frame.map(Frame::into_data) {
                Some(Ok(data)) => this.rewriter.push(data)?,
                Some(Err(frame)) => {
                    let Ok(mut trailers) = frame.into_trailers() else {
                        continue;
                    };
                    this.trailers.apply(&mut trailers)?;
                    let held = this.rewriter.finish();
                    if held.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    this.waiting = Some(trailers);
                    held
                }
                None => {
                    let held = this.rewriter.finish();
                    return Poll::Ready((!held.is_empty()).then(|| Ok(Frame::data(held))));
                }
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.rewriter.is_idle() && self.waiting.is_none()
    }
}

/// A body that keeps a value until it has ended.
#[derive(Debug)]
pub(super) struct Keeping<B, T> {
    inner: B,
    _kept: T,
}

impl<B, T> Keeping<B, T> {
    pub(super) fn new(inner: B, kept: T) -> Self {
        Self { inner, _kept: kept }
    }
}

impl<B, T> HttpBody for Keeping<B, T>
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin,
    T: Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.inner)
            .poll_frame(context)
            .map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
