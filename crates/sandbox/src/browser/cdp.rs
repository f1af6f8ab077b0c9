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

/// Most characters of a dialog that are repeated; Chromium shows about as many.
const MAX_DIALOG_CHARS: usize = 2000;

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
    /// The page could not be loaded.
    #[error("load the page: {reason}")]
    Load {
        /// Why not, as Chromium says.
        reason: String,
    },
    /// The page waits for the answer to a dialog.
    #[error("the page shows a dialog ({}) that has to be answered first: {:?}", .0.kind, .0.message)]
    Dialog(Dialog),
}

impl PageError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Access(error) => error.kind(),
            Self::Slow => ErrorKind::Timeout,
            Self::Dialog(_) => ErrorKind::Conflict,
            Self::List { .. }
            | Self::NoPage
            | Self::Connection(_)
            | Self::NoAnswer { .. }
            | Self::Refused { .. }
            | Self::Load { .. } => ErrorKind::GuestFailed,
        }
    }
}

/// A dialog that a page's script shows, and that nothing happens beside until it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    /// `alert`, `confirm`, `prompt` or `beforeunload`.
    pub kind: String,
    /// What it says, cut to a printable length.
    pub message: String,
    /// What a prompt has in its field.
    pub default_text: String,
}

impl Dialog {
    /// Reads the parameters of `Page.javascriptDialogOpening`.
    pub(super) fn of_event(parameters: &Value) -> Self {
        let text = |name: &str| {
            let text = parameters[name].as_str().unwrap_or_default();
            crate::text::excerpt(text, MAX_DIALOG_CHARS)
        };
        Self {
            kind: text("type"),
            message: text("message"),
            default_text: text("defaultPrompt"),
        }
    }
}

/// A page of the browser, connected to.
#[derive(Debug)]
pub(super) struct Page {
    socket: WebSocketStream<GuestConnection>,
    last_id: u64,
    /// The dialog it shows, as far as has been read. Told only to whom
    /// [`Self::watch_dialogs`] was called on.
    dialog: Option<Dialog>,
    /// Whether the dialog opened before this connection, which therefore cannot answer it.
    is_dialog_older: bool,
    /// Whether the page has gone.
    is_gone: bool,
}

impl Page {
    /// Connects to the page `target`.
    pub(super) async fn connect(sandbox: &Sandbox, target: &str) -> Result<Self, PageError> {
        let stream = sandbox.dial(CDP_PORT).await?;
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        // The guest's identifier goes into a path of the guest's own server.
        let url = format!("ws://127.0.0.1:{CDP_PORT}/devtools/page/{target}");
        let (socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(limits))
            .await
            .map_err(Box::new)?;
        Ok(Self {
            socket,
            last_id: 0,
            dialog: None,
            is_dialog_older: false,
            is_gone: false,
        })
    }

    /// Has dialogs come to this connection from now on. Not waited for: a page that shows one already
    /// does not answer.
    pub(super) async fn watch_dialogs(&mut self) -> Result<(), PageError> {
        self.send("Page.enable", json!({})).await?;
        Ok(())
    }

    /// Takes note of a dialog that opened before this connection.
    pub(super) fn learn_dialog(&mut self, dialog: Dialog) {
        if self.dialog.is_none() {
            self.dialog = Some(dialog);
            self.is_dialog_older = true;
        }
    }

    /// Returns whether the dialog can only be answered by who was there when it opened.
    pub(super) const fn is_dialog_older(&self) -> bool {
        self.dialog.is_some() && self.is_dialog_older
    }

    /// Returns the dialog that the page shows, as far as has been read.
    pub(super) const fn dialog(&self) -> Option<&Dialog> {
        self.dialog.as_ref()
    }

    /// Returns whether the page has gone.
    pub(super) const fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Answers the dialog that the page shows.
    pub(super) async fn answer_dialog(
        &mut self,
        is_accepted: bool,
        text: Option<&str>,
    ) -> Result<(), PageError> {
        let mut answer = json!({"accept": is_accepted});
        if let Some(text) = text {
            answer["promptText"] = json!(text);
        }
        self.ask("Page.handleJavaScriptDialog", answer).await?;
        self.forget_dialog();
        Ok(())
    }

    /// Takes note that the dialog was answered.
    pub(super) fn forget_dialog(&mut self) {
        self.dialog = None;
    }

    /// Calls a method that the browser answers whatever the page does, and returns its result.
    pub(super) async fn ask(
        &mut self,
        method: &'static str,
        parameters: Value,
    ) -> Result<Value, PageError> {
        let id = self.send(method, parameters).await?;
        loop {
            if let Some(result) = self.receive(method, id).await? {
                return Ok(result);
            }
        }
    }

    /// Calls a method that the page answers, and returns its result.
    pub(super) async fn call(
        &mut self,
        method: &'static str,
        parameters: Value,
    ) -> Result<Value, PageError> {
        self.check_dialog()?;
        let id = self.send(method, parameters).await?;
        loop {
            if let Some(result) = self.receive(method, id).await? {
                return Ok(result);
            }
            self.check_dialog()?;
        }
    }

    /// Sends events of mouse or keyboard, and returns when the page has taken the last of them:
    /// when it has answered, shows a dialog, or has gone for it.
    pub(super) async fn input(
        &mut self,
        method: &'static str,
        events: Vec<Value>,
    ) -> Result<(), PageError> {
        self.check_dialog()?;
        let mut last_id = None;
        for event in events {
            last_id = Some(self.send(method, event).await?);
        }
        let Some(id) = last_id else {
            return Ok(());
        };
        while self.dialog.is_none() {
            match self.receive(method, id).await {
                Ok(None) => {}
                Ok(Some(_)) => return Ok(()),
                Err(_) if self.is_gone => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn check_dialog(&self) -> Result<(), PageError> {
        match &self.dialog {
            None => Ok(()),
            Some(dialog) => Err(PageError::Dialog(dialog.clone())),
        }
    }

    async fn send(&mut self, method: &'static str, parameters: Value) -> Result<u64, PageError> {
        self.last_id += 1;
        let request = json!({"id": self.last_id, "method": method, "params": parameters});
        let message = Message::text(request.to_string());
        self.socket.send(message).await.map_err(Box::new)?;
        Ok(self.last_id)
    }

    /// Takes in the next message. Returns the result of the call `id`, if it is that.
    async fn receive(&mut self, method: &'static str, id: u64) -> Result<Option<Value>, PageError> {
        let Some(message) = self.socket.next().await else {
            return Err(PageError::NoAnswer { method });
        };
        let Message::Text(text) = message.map_err(Box::new)? else {
            return Ok(None);
        };
        let mut answer: Value =
            serde_json::from_str(&text).map_err(|_| PageError::NoAnswer { method })?;
        match answer["method"].as_str() {
            Some("Page.javascriptDialogOpening") => {
                self.dialog = Some(Dialog::of_event(&answer["params"]));
                self.is_dialog_older = false;
            }
            Some("Page.javascriptDialogClosed") => self.dialog = None,
            // Its tab was closed; the connection ends after this.
            Some("Inspector.detached") => self.is_gone = true,
            _ => {}
        }
        if answer["id"] != id {
            return Ok(None);
        }
        match answer["error"]["message"].as_str() {
            Some(message) => Err(PageError::Refused {
                method,
                message: crate::text::excerpt(message, 400),
            }),
            None => Ok(Some(answer["result"].take())),
        }
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
pub(super) async fn last_used(sandbox: &Sandbox) -> Result<String, PageError> {
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
