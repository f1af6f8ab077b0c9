//! One connection of a guest's, and what happens to each request on it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::body::{Body, Keeping, Rewritten, Trailers, text};
use super::head::{self, BadRequest, RequestHead};
use super::record::RequestRecord;
use super::refusal::Refusal;
use super::tunnel::Tunnel;
use super::upstream::{
    CONNECTION_WINDOW_BYTES, HttpVersion, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES, ServerTls,
    Source, Upstream, UpstreamBody,
};
use super::{Dial, RequestPolicy, Shared, Stream};
use crate::secrets::{Exchange, MAX_REWRITTEN_BODY_BYTES, is_compressed};
use crate::{EventSink, Name, Secrets};

/// Largest head of a request in bytes. Large cookies and tokens fit.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// How long a guest may take for a head, or keep a connection without a request.
const HEAD_TIME: Duration = Duration::from_secs(120);

/// Requests of one connection that go on at once in HTTP/2, at most (RFC 9113 §6.5.2 recommends no
/// fewer).
const MAX_STREAMS: u32 = 100;

/// Bodies of requests that are held for one sandbox while secrets are put in, at most: 16 MiB.
const MAX_HELD_BODIES: usize = 16;

/// Why a guest's connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The guest does not speak HTTP, or stopped to.
    #[error("http with the guest")]
    Guest(#[source] hyper::Error),
    /// A WebSocket broke.
    #[error("websocket")]
    Tunnel(#[source] std::io::Error),
}

/// What the log and the policy know a connection by.
#[derive(Clone, Copy, Debug)]
pub struct GuestConnection {
    /// Its number in the log.
    pub number: u64,
    /// Port that the guest connected to.
    pub port: u16,
}

/// The proxy for HTTP of one sandbox.
#[derive(Clone)]
pub struct HttpProxy(Shared);

impl HttpProxy {
    /// Returns a proxy that asks `policy`, tells `events` and puts `secrets` in.
    #[must_use]
    pub fn new(policy: Arc<dyn RequestPolicy>, events: EventSink, secrets: Secrets) -> Self {
        Self(Shared {
            policy,
            events,
            secrets,
            held_bodies: Arc::new(Semaphore::new(MAX_HELD_BODIES)),
        })
    }

    /// Serves a connection without TLS, until the guest ends it. `is_http2` tells what it was
    /// [`Shown`](crate::Shown) to be.
    ///
    /// # Errors
    ///
    /// When the guest does not speak HTTP, or its WebSocket breaks.
    pub async fn serve(
        &self,
        connection: GuestConnection,
        is_http2: bool,
        guest: impl Stream,
        dial: Arc<dyn Dial>,
    ) -> Result<(), HttpError> {
        let version = if is_http2 {
            HttpVersion::Http2
        } else {
            HttpVersion::Http1
        };
        let connection = Connection {
            shared: self.0.clone(),
            connection,
            intercepted: None,
            exchange: self.0.secrets.in_clear(),
            upstream: Upstream::new(dial, Source::Plain(version)),
            tunnel: Mutex::default(),
        };
        connection.serve(version, guest).await
    }

    /// Serves what is in TLS that the gateway has ended.
    pub(crate) async fn serve_intercepted(
        &self,
        connection: GuestConnection,
        server: ServerTls,
        version: HttpVersion,
        guest: impl Stream,
        dial: Arc<dyn Dial>,
    ) -> Result<(), HttpError> {
        let host = server.host.clone();
        let connection = Connection {
            shared: self.0.clone(),
            connection,
            exchange: self.0.secrets.toward(&host),
            intercepted: Some(host),
            upstream: Upstream::new(dial, Source::Tls(server, version)),
            tunnel: Mutex::default(),
        };
        connection.serve(version, guest).await
    }
}

struct Connection {
    shared: Shared,
    connection: GuestConnection,
    /// The name in the TLS that was ended.
    intercepted: Option<Name>,
    exchange: Exchange,
    upstream: Arc<Upstream>,
    /// Guards the WebSocket that the connection becomes; held for single operations.
    tunnel: Mutex<Option<Tunnel>>,
}

impl Connection {
    async fn serve(self, version: HttpVersion, guest: impl Stream) -> Result<(), HttpError> {
        let this = Arc::new(self);
        let answering = Arc::clone(&this);
        let service = service_fn(move |request| {
            let this = Arc::clone(&answering);
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let guest = TokioIo::new(guest);
        match version {
            HttpVersion::Http1 => {
                let served = http1::Builder::new()
                    .max_buf_size(MAX_HEAD_BYTES as usize)
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME)
                    .serve_connection(guest, service);
                served.with_upgrades().await
            }
            HttpVersion::Http2 => {
                let served = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_STREAMS)
                    .max_header_list_size(MAX_HEAD_BYTES)
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .max_send_buf_size(SEND_BUFFER_BYTES)
                    .serve_connection(guest, service);
                served.await
            }
        }
        .map_err(HttpError::Guest)?;
        let tunnel = this
            .tunnel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match tunnel {
            Some(tunnel) => tunnel.run().await.map_err(HttpError::Tunnel),
            None => Ok(()),
        }
    }

    /// Answers a request: with its server's response, or why there is none.
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut record = RequestRecord::new(
            self.shared.events.clone(),
            self.connection.number,
            request.method().as_str(),
            request.uri().path(),
        );
        let judged = self.judge(&request, &mut record);
        let record = Arc::new(record);
        let answered = match judged {
            Ok(uri) => self.carry(request, uri, &record).await,
            Err(refusal) => Err(refusal),
        };
        let response = answered.unwrap_or_else(Refusal::into_response);
        record.set_status(response.status());
        response
    }

    /// Decides about a request, and returns its target with the authority.
    fn judge(
        &self,
        request: &Request<Incoming>,
        record: &mut RequestRecord,
    ) -> Result<Uri, Refusal> {
        let is_tls = self.intercepted.is_some();
        let authority = head::read_authority(request, is_tls)?;
        record.set_host(authority.host.to_string());
        head::check_framing(request.headers())?;
        let path_and_query = head::path_and_query(request.uri())?;
        if self.intercepted.is_some() && self.intercepted.as_ref() != authority.host.name() {
            return Err(Refusal::Bad(BadRequest {
                status: StatusCode::MISDIRECTED_REQUEST,
                reason: "host is not the one in the TLS hello",
            }));
        }
        for method in head::methods(request) {
            let verdict = self.shared.policy.request(&RequestHead {
                host: authority.host.clone(),
                port: self.connection.port,
                method,
                path: request.uri().path().to_owned(),
                is_tls,
            });
            let rule = (!verdict.is_allowed).then(|| verdict.rule.to_string());
            record.set_verdict(verdict);
            if let Some(rule) = rule {
                return Err(Refusal::Denied(rule));
            }
        }
        for name in [request.method().as_str(), &authority.host.to_string()] {
            self.exchange.refuse_in_name(name, &record.findings)?;
        }
        let with_secrets = self
            .exchange
            .put_into_path(path_and_query, &record.findings)?;
        let path_and_query = with_secrets.as_deref().unwrap_or(path_and_query.as_bytes());
        Uri::builder()
            .scheme(if is_tls { "https" } else { "http" })
            .authority(authority.to_string())
            .path_and_query(path_and_query)
            .build()
            .map_err(|_| {
                Refusal::Bad(BadRequest {
                    status: StatusCode::BAD_REQUEST,
                    reason: "target is not a URI",
                })
            })
    }

    /// Sends a request on, and returns its response.
    async fn carry(
        &self,
        mut request: Request<Incoming>,
        uri: Uri,
        record: &Arc<RequestRecord>,
    ) -> Result<Response<Body>, Refusal> {
        let is_upgrade =
            request.version() == Version::HTTP_11 && head::is_websocket(request.headers());
        let guest = is_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let has_trailers = head::takes_trailers(&parts.headers);
        head::strip_request(&mut parts.headers);
        self.exchange
            .put_into_headers(&mut parts.headers, &record.findings)?;
        if self.exchange.reads_responses() {
            // So that an echo of the secret can be found.
            let identity = HeaderValue::from_static("identity");
            parts
                .headers
                .insert(hyper::header::ACCEPT_ENCODING, identity);
        }
        if is_upgrade {
            set_upgrade(&mut parts.headers);
        } else if has_trailers && parts.version == Version::HTTP_2 {
            parts
                .headers
                .insert(TE, HeaderValue::from_static("trailers"));
        }
        let body = self.request_body(body, &mut parts.headers, record).await?;
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = uri;
        *outgoing.headers_mut() = parts.headers;
        let sent = self.upstream.send(outgoing).await;
        if let Some(refused) = record.findings.refused() {
            return Err(Refusal::Secret(refused));
        }
        let mut response = sent.map_err(Refusal::Upstream)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let server = hyper::upgrade::on(&mut response);
            return self.switch(response, guest, server);
        }
        Ok(self.response(response))
    }

    /// Returns the body of a request as it is sent on, and corrects its length.
    async fn request_body(
        &self,
        body: Incoming,
        headers: &mut HeaderMap,
        record: &Arc<RequestRecord>,
    ) -> Result<Body, Refusal> {
        let exchange = &self.exchange;
        let findings = &record.findings;
        let length = body.size_hint().exact();
        if body.is_end_stream() || !exchange.reads_requests() || is_compressed(headers) {
            return Ok(Keeping::new(body, Arc::clone(record)).boxed_unsync());
        }
        let is_long = length.is_some_and(|length| length > MAX_REWRITTEN_BODY_BYTES);
        let rewriter = if is_long {
            exchange.refuse_in_body(findings.clone())
        } else {
            exchange.put_into_body(headers, findings.clone())
        };
        let trailers = Trailers::Put(exchange.clone(), findings.clone());
        let rewritten = Rewritten::new(body, rewriter, trailers);
        if length.is_none() || is_long {
            return Ok(Keeping::new(rewritten, Arc::clone(record)).boxed_unsync());
        }
        let permit = Arc::clone(&self.shared.held_bodies).acquire_owned().await;
        let whole = rewritten.collect().await.map_err(Refusal::Body)?;
        let trailers = whole.trailers().cloned();
        let whole = whole.to_bytes();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
        let body = whole_body(whole, trailers);
        Ok(Keeping::new(body, (Arc::clone(record), permit)).boxed_unsync())
    }

    /// Returns a server's response as the guest gets it.
    fn response(&self, response: Response<UpstreamBody>) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        if parts.headers.contains_key(TRANSFER_ENCODING) {
            // Chunks counted, so a length that is there too is wrong (RFC 9112 §6.3).
            parts.headers.remove(CONTENT_LENGTH);
        }
        head::strip_connection_fields(&mut parts.headers);
        // It invites to QUIC, in which the gateway could not see names.
        parts.headers.remove(ALT_SVC);
        let body = if self.exchange.reads_responses() {
            self.exchange.hide_in_headers(&mut parts.headers);
            if is_compressed(&parts.headers) {
                body.boxed_unsync()
            } else {
                let trailers = Trailers::Hide(self.exchange.clone());
                Rewritten::new(body, self.exchange.hide_in_body(), trailers).boxed_unsync()
            }
        } else {
            body.boxed_unsync()
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = parts.status;
        *answer.headers_mut() = parts.headers;
        answer
    }

    /// Makes the connection a WebSocket.
    fn switch(
        &self,
        response: Response<UpstreamBody>,
        guest: Option<hyper::upgrade::OnUpgrade>,
        server: hyper::upgrade::OnUpgrade,
    ) -> Result<Response<Body>, Refusal> {
        let is_websocket = head::is_websocket(response.headers());
        let Some(guest) = guest.filter(|_| is_websocket) else {
            return Err(Refusal::Bad(BadRequest {
                status: StatusCode::BAD_GATEWAY,
                reason: "server switched to what was not asked for",
            }));
        };
        let mut answer = self.response(response);
        *answer.body_mut() = text(String::new());
        set_upgrade(answer.headers_mut());
        let mut tunnel = self.tunnel.lock().unwrap_or_else(PoisonError::into_inner);
        *tunnel = Some(Tunnel { guest, server });
        Ok(answer)
    }
}

fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

fn whole_body(whole: Bytes, trailers: Option<HeaderMap>) -> Body {
    let body = Full::new(whole).map_err(|never| match never {});
    match trailers {
        Some(trailers) => body
            .with_trailers(std::future::ready(Some(Ok(trailers))))
            .boxed_unsync(),
        None => body.boxed_unsync(),
    }
}
