//! The Chrome DevTools Protocol, as far as SmolVM itself speaks it: pictures of a page.
//!
//! Chromium is reached through the agent, so that no port of the host is needed. All of its
//! answers are the guest's word: they are bounded in size and time.
//!
//! Spec: <https://chromedevtools.github.io/devtools-protocol/tot/Page/>.

use std::time::Duration;

use base64ct::{Base64, Encoding as _};
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

/// How long a picture may take: an emulated guest draws a large page for seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest list of pages that is read.
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;

/// Largest picture that is taken, as Base64: a page of 16384 rows, which is where Chromium ends.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum ScreenshotError {
    /// Chromium cannot be reached.
    #[error("reach the browser")]
    Access(#[from] AccessError),
    /// Chromium does not list its pages.
    #[error("ask the browser for its pages: {reason}")]
    List {
        /// Why not.
        reason: String,
    },
    /// There is no page to take a picture of.
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
    #[error("the browser did not draw the page within {} s", PATIENCE.as_secs())]
    Slow,
}

impl ScreenshotError {
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

/// How a picture is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageFormat {
    /// Without loss.
    #[default]
    Png,
    /// With loss.
    Jpeg,
}

impl ImageFormat {
    /// Returns the format of a file by the end of its name, PNG where it says nothing.
    #[must_use]
    pub fn of_path(path: &std::path::Path) -> Self {
        match path.extension().and_then(|end| end.to_str()) {
            Some("jpg" | "jpeg") => Self::Jpeg,
            _ => Self::Png,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
        }
    }
}

/// Takes a picture of the page that was used last: what its window shows, or all of it.
pub(super) async fn screenshot(
    sandbox: &Sandbox,
    is_full_page: bool,
    format: ImageFormat,
) -> Result<Vec<u8>, ScreenshotError> {
    let take = async {
        let mut page = Page::connect(sandbox).await?;
        let mut parameters = json!({"format": format.as_str()});
        if is_full_page {
            parameters["captureBeyondViewport"] = json!(true);
            parameters["clip"] = page.whole().await?;
        }
        let method = "Page.captureScreenshot";
        let captured = page.call(method, parameters).await?;
        captured["data"]
            .as_str()
            .and_then(|data| Base64::decode_vec(data).ok())
            .ok_or(ScreenshotError::NoAnswer { method })
    };
    tokio::time::timeout(PATIENCE, take)
        .await
        .map_err(|_| ScreenshotError::Slow)?
}

/// A page of the browser, connected to.
struct Page {
    socket: WebSocketStream<GuestConnection>,
    last_id: u64,
}

impl Page {
    /// Connects to the page that was used last.
    async fn connect(sandbox: &Sandbox) -> Result<Self, ScreenshotError> {
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

    /// Returns the part of the page that is all of it. Its content is narrower than its window by
    /// a scrollbar, which the picture does not have.
    async fn whole(&mut self) -> Result<Value, ScreenshotError> {
        let metrics = self.call("Page.getLayoutMetrics", json!({})).await?;
        let content = &metrics["cssContentSize"];
        let expression = json!({"expression": "innerWidth"});
        let window = self.call("Runtime.evaluate", expression).await?;
        let window = window["result"]["value"].as_f64().unwrap_or_default();
        let width = content["width"].as_f64().unwrap_or_default().max(window);
        Ok(json!({"x": 0, "y": 0, "width": width, "height": content["height"], "scale": 1}))
    }

    /// Calls a method and returns its result.
    async fn call(
        &mut self,
        method: &'static str,
        parameters: Value,
    ) -> Result<Value, ScreenshotError> {
        self.last_id += 1;
        let request = json!({"id": self.last_id, "method": method, "params": parameters});
        let message = Message::text(request.to_string());
        self.socket.send(message).await.map_err(Box::new)?;
        while let Some(message) = self.socket.next().await {
            let Message::Text(text) = message.map_err(Box::new)? else {
                continue;
            };
            let answer: Value =
                serde_json::from_str(&text).map_err(|_| ScreenshotError::NoAnswer { method })?;
            if answer["id"] != self.last_id {
                continue;
            }
            return match answer["error"]["message"].as_str() {
                Some(message) => Err(ScreenshotError::Refused {
                    method,
                    message: crate::text::excerpt(message, 400),
                }),
                None => Ok(answer["result"].clone()),
            };
        }
        Err(ScreenshotError::NoAnswer { method })
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
async fn first_page(sandbox: &Sandbox) -> Result<String, ScreenshotError> {
    let list = |reason: String| ScreenshotError::List { reason };
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
        Ok::<_, ScreenshotError>(body.to_bytes())
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
    let id = page.ok_or(ScreenshotError::NoPage)?.id;
    if id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        Ok(id)
    } else {
        Err(list("a page has an illegal identifier".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn name_of_a_file_chooses_its_format() {
        assert_eq!(
            ImageFormat::of_path(Path::new("a/b.jpg")),
            ImageFormat::Jpeg
        );
        for name in ["a.png", "a", "jpg", "a.webp"] {
            assert_eq!(ImageFormat::of_path(Path::new(name)), ImageFormat::Png);
        }
    }
}
