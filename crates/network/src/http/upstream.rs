//! The host's side: connections on which requests go out.
//!
//! ```text
//!   send --> idle connection, or Dial (and TLS) --> hyper's client
//!                 ^                                       |
//!                 \---- response's body has ended --------/
//! ```
//!
//! A connection that was idle may be closed by its server just when a request goes out. If nothing
//! of the request was sent, it goes out on another one.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::body::{Body, Keeping};
use super::{BoxStream, Dial};
use crate::Name;
use crate::intercept::{UpstreamTls, UpstreamTlsError};

/// Idle connections that are kept, at most; more than one only if the guest speaks HTTP/2 and the
/// server does not.
const MAX_IDLE: usize = 8;

/// How long a connection whose response has ended may take to be ready for the next request.
const READY_TIME: Duration = Duration::from_millis(100);

/// Largest head of a response in bytes. Large cookies fit.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Window of a stream in HTTP/2, in bytes: what one slow reader makes the gateway hold.
pub(super) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// Window of a connection in HTTP/2, in bytes.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// What waits to be sent on a stream of HTTP/2, in bytes.
pub(super) const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// No TLS on it.
    #[error(transparent)]
    Tls(#[from] UpstreamTlsError),
    /// The server does not speak HTTP, or stopped to.
    #[error("no response")]
    Http(#[source] hyper::Error),
}

/// A version of HTTP, as far as connections differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

/// Where connections come from.
pub(super) enum Source {
    /// Without TLS, in the version that the guest speaks.
    Plain(HttpVersion),
    /// With TLS; in HTTP/1 if the guest speaks that, otherwise in what the server
    /// chooses.
    Tls(ServerTls, HttpVersion),
}

/// A server that TLS is spoken with.
pub(crate) struct ServerTls {
    /// Its name, which its certificate must be for.
    pub(crate) host: Name,
    /// How it is trusted.
    pub(crate) tls: UpstreamTls,
}

/// The host's side of one connection of the guest's.
pub(super) struct Upstream {
    dial: Arc<dyn Dial>,
    source: Source,
    /// The version that the server speaks, known from the first connection on.
    version: OnceCell<HttpVersion>,
    /// Guards the connections without a request; held for single operations.
    idle: Mutex<Vec<Sender>>,
    /// Guards what drives the connections, which ends with this; held for single operations.
    drivers: Mutex<JoinSet<()>>,
}

/// What sends requests on a connection.
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A response's body, which gives its connection back when it has ended.
pub(super) type UpstreamBody = Keeping<Incoming, Option<Returned>>;

impl Upstream {
    pub(super) fn new(dial: Arc<dyn Dial>, source: Source) -> Arc<Self> {
        Arc::new(Self {
            dial,
            source,
            version: OnceCell::new(),
            idle: Mutex::default(),
            drivers: Mutex::default(),
        })
    }

    /// Sends a request, whose target has its authority, and returns the response.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        self.version.get_or_try_init(|| self.open_first()).await?;
        loop {
            let idle = self.take_idle().await;
            let was_idle = idle.is_some();
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.open().await?.0,
            };
            match sender.send(request).await {
                Ok(response) => return Ok(self.keep(response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if was_idle => request = unsent,
                    _ => return Err(UpstreamError::Http(error.into_error())),
                },
            }
        }
    }

    /// Opens the first connection, which tells the version for all.
    async fn open_first(&self) -> Result<HttpVersion, UpstreamError> {
        let (sender, version) = self.open().await?;
        self.put_idle(sender);
        Ok(version)
    }

    async fn open(&self) -> Result<(Sender, HttpVersion), UpstreamError> {
        let stream = self.dial.dial().await.map_err(UpstreamError::Connect)?;
        let (stream, version): (BoxStream, _) = match &self.source {
            Source::Plain(version) => (stream, *version),
            Source::Tls(server, guests) => {
                let offered = self.version.get().unwrap_or(guests);
                let (stream, version) = server.tls.connect(&server.host, stream, *offered).await?;
                (Box::new(stream), version)
            }
        };
        let sender = match version {
            HttpVersion::Http1 => self.begin_http1(stream).await,
            HttpVersion::Http2 => self.begin_http2(stream).await,
        };
        Ok((sender.map_err(UpstreamError::Http)?, version))
    }

    async fn begin_http1(&self, stream: BoxStream) -> hyper::Result<Sender> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        self.drive(connection.with_upgrades());
        Ok(Sender::Http1(sender))
    }

    async fn begin_http2(&self, stream: BoxStream) -> hyper::Result<Sender> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        self.drive(connection);
        Ok(Sender::Http2(sender))
    }

    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let mut drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        while drivers.try_join_next().is_some() {}
        drivers.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a server failed");
            }
        });
    }

    /// Takes a connection that is ready for a request. One of HTTP/2 stays for others, too.
    async fn take_idle(&self) -> Option<Sender> {
        loop {
            let sender = self.idle().pop()?;
            match sender {
                Sender::Http2(sender) if !sender.is_closed() => {
                    self.put_idle(Sender::Http2(sender.clone()));
                    return Some(Sender::Http2(sender));
                }
                Sender::Http2(_) => {}
                Sender::Http1(mut sender) => {
                    // It is still busy where its server answered before it had the whole request.
                    if matches!(timeout(READY_TIME, sender.ready()).await, Ok(Ok(()))) {
                        return Some(Sender::Http1(sender));
                    }
                }
            }
        }
    }

    fn put_idle(&self, sender: Sender) {
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the connection of a response with its body.
    fn keep(
        self: &Arc<Self>,
        response: Response<Incoming>,
        sender: Sender,
    ) -> Response<UpstreamBody> {
        let returned = match sender {
            Sender::Http1(sender) if response.status() != StatusCode::SWITCHING_PROTOCOLS => {
                Some(Returned {
                    upstream: Arc::downgrade(self),
                    sender: Some(sender),
                })
            }
            _ => None,
        };
        response.map(|body| Keeping::new(body, returned))
    }
}

/// A connection of HTTP/1 that is given back with the end of a response's body. If the body was
/// not read to its end, hyper closes the connection, which then is never ready again.
#[derive(Debug)]
pub(super) struct Returned {
    upstream: Weak<Upstream>,
    sender: Option<http1::SendRequest<Body>>,
}

impl Drop for Returned {
    fn drop(&mut self) {
        if let (Some(upstream), Some(sender)) = (self.upstream.upgrade(), self.sender.take()) {
            upstream.put_idle(Sender::Http1(sender));
        }
    }
}

impl Sender {
    async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(for_http1(request)).await,
            Self::Http2(sender) => sender.try_send_request(for_http2(request)).await,
        }
    }
}

/// Moves the authority into `Host`, and says how the body is framed.
fn for_http1(mut request: Request<Body>) -> Request<Body> {
    *request.version_mut() = Version::HTTP_11;
    let uri = request.uri();
    if let Some(authority) = uri.authority() {
        let host = HeaderValue::from_str(authority.as_str());
        let path = uri.path_and_query().cloned();
        // Both were part of a valid URI.
        if let (Ok(host), Some(path)) = (host, path) {
            request.headers_mut().insert(HOST, host);
            *request.uri_mut() = Uri::from(path);
        }
    }
    join_cookies(request.headers_mut());
    let has_length = request.headers().contains_key(CONTENT_LENGTH);
    if !has_length && !request.body().is_end_stream() {
        // hyper leaves the body of a GET out if nothing says that there is one.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    request
}

/// Makes one field of cookies, which HTTP/2 may split (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(mut cookie) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        cookie.set_sensitive(true);
        headers.insert(COOKIE, cookie);
    }
}

fn for_http2(mut request: Request<Body>) -> Request<Body> {
    *request.version_mut() = Version::HTTP_2;
    request
}
