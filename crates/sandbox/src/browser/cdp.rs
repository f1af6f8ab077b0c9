//! The Chrome DevTools Protocol, as far as SmolVM itself speaks it: a connection to one page.
//!
//! Chromium is reached through the agent, so that no port of the host is needed. All of its
//! answers are the guest's word: they are bounded in size and time.
//!
//! Spec: <https://chromedevtools.github.io/devtools-protocol/tot/>.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::{AccessError, ErrorKind, GuestConnection, Sandbox};

/// Chromium's port on the guest's loopback.
pub(super) const CDP_PORT: u16 = 9222;

/// How long a page may take: an emulated guest draws a large one for seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Longest list of pages that is read.
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;

/// Largest picture that is taken, as Base64: a page of 16384 rows, which is where Chromium ends.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// Why the browser's page could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Chromium cannot be reached.
    #[error("reach the browser")]
    Access(#[from] AccessError),
    /// Chromium does not list its pages.
    #[error("ask the browser for its pages: {reason}")]
    List {
        /// Why not.
        reason: String,
    },
    /// There is no page.
    #[error("the browser has no page")]
    NoPage,
    /// The connection to the page failed.
    #[error("talk to the browser")]
    Connection(#[from] Box<tungstenite::Error>),
    /// The connection ended, or something came that is no answer.
    #[error("talk to the browser: {method} had no answer")]
    NoAnswer {
        /// What was asked.
        method: &'static str,
    },
    /// Chromium refused.
    #[error("the browser refused {method}: {message}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// What it said.
        message: String,
    },
    /// It took too long.
    #[error("the page did not answer within {} s", PATIENCE.as_secs())]
    Slow,
}

impl PageError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Access(error) => error.kind(),
            Self::Slow => ErrorKind::Timeout,
            Self::List { .. }
            | Self::NoPage
            | Self::Connection(_)
            | Self::NoAnswer { .. }
            | Self::Refused { .. } => ErrorKind::GuestFailed,
        }
    }
}

/// A page of the browser, connected to.
pub(super) struct Page {
    socket: WebSocketStream<GuestConnection>,
    last_id: u64,
}

impl Page {
    /// Connects to the page that was used last.
    pub(super) async fn connect(sandbox: &Sandbox) -> Result<Self, PageError> {
        let target = first_page(sandbox).await?;
        let stream = sandbox.dial(CDP_PORT).await?;
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        // The guest's identifier goes into a path of the guest's own server.
        let url = format!("ws://127.0.0.1:{CDP_PORT}/devtools/page/{target}");
        let (socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(limits))
            .await
            .map_err(Box::new)?;
        Ok(Self { socket, last_id: 0 })
    }

    /// Calls a method and returns its result.
    pub(super) async fn call(
        &mut self,
        method: &'static str,
        parameters: Value,
    ) -> Result<Value, PageError> {
        self.last_id += 1;
        let request = json!({"id": self.last_id, "method": method, "params": parameters});
        let message = Message::text(request.to_string());
        self.socket.send(message).await.map_err(Box::new)?;
        while let Some(message) = self.socket.next().await {
            let Message::Text(text) = message.map_err(Box::new)? else {
                continue;
            };
            let answer: Value =
                serde_json::from_str(&text).map_err(|_| PageError::NoAnswer { method })?;
            if answer["id"] != self.last_id {
                continue;
            }
            return match answer["error"]["message"].as_str() {
                Some(message) => Err(PageError::Refused {
                    method,
                    message: crate::text::excerpt(message, 400),
                }),
                None => Ok(answer["result"].clone()),
            };
        }
        Err(PageError::NoAnswer { method })
    }
}

/// One entry of `/json/list`, as far as it is of interest.
#[derive(Deserialize)]
struct Target {
    id: String,
    #[serde(rename = "type")]
    kind: String,
}

/// Returns the identifier of the page that was used last.
async fn first_page(sandbox: &Sandbox) -> Result<String, PageError> {
    let list = |reason: String| PageError::List { reason };
    let stream = TokioIo::new(sandbox.dial(CDP_PORT).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(|error| list(error.to_string()))?;
    let request = hyper::Request::get("/json/list")
        .header(hyper::header::HOST, format!("127.0.0.1:{CDP_PORT}"))
        .body(Empty::<Bytes>::new())
        .map_err(|error| list(error.to_string()))?;
    let ask = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| list(error.to_string()))?;
        let body = Limited::new(response.into_body(), MAX_LIST_BYTES);
        let body = body
            .collect()
            .await
            .map_err(|error| list(error.to_string()))?;
        Ok::<_, PageError>(body.to_bytes())
    };
    tokio::pin!(ask, connection);
    let body = tokio::select! {
        body = &mut ask => body?,
        // The connection ends once the answer has come, or without one.
        _ = &mut connection => ask.await?,
    };
    let targets: Vec<Target> =
        serde_json::from_slice(&body).map_err(|error| list(error.to_string()))?;
    let page = targets.into_iter().find(|target| target.kind == "page");
    let id = page.ok_or(PageError::NoPage)?.id;
    if id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        Ok(id)
    } else {
        Err(list("a page has an illegal identifier".to_owned()))
    }
}
