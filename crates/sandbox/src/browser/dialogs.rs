//! The dialogs that opened before this process connected to their pages: Chromium tells them and
//! takes their answers only to and from who was there, which in the guest somebody always is.
//!
//! The other side is part of the image (`crates/image/src/root_image/browser/dialogs.py`); its
//! answers are the guest's word.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::cdp::{Dialog, PageError};
use crate::Sandbox;

/// The port of the guest's loopback where questions are answered.
const DIALOGS_PORT: u16 = 9223;

/// Longest answer that is read: two texts of 4000 characters, as JSON, and some names.
const MAX_ANSWER_BYTES: u64 = 256 * 1024;

const METHOD: &str = "dialogs";

/// Returns the dialog that a page shows.
pub(super) async fn open(sandbox: &Sandbox, target: &str) -> Result<Option<Dialog>, PageError> {
    let answer = ask(sandbox, json!({ "target": target })).await?;
    match &answer["dialog"] {
        Value::Null => Ok(None),
        dialog => Ok(Some(Dialog::of_event(dialog))),
    }
}

/// Answers the dialog that a page shows.
pub(super) async fn answer(
    sandbox: &Sandbox,
    target: &str,
    is_accepted: bool,
    text: Option<&str>,
) -> Result<(), PageError> {
    let answer = json!({ "target": target, "accept": is_accepted, "text": text });
    ask(sandbox, answer).await.map(drop)
}

/// Asks one question.
async fn ask(sandbox: &Sandbox, question: Value) -> Result<Value, PageError> {
    let no_answer = PageError::NoAnswer { method: METHOD };
    let mut stream = BufReader::new(sandbox.dial(DIALOGS_PORT).await?);
    let question = format!("{question}\n");
    if stream.write_all(question.as_bytes()).await.is_err() {
        return Err(no_answer);
    }
    let mut line = Vec::new();
    let mut bounded = stream.take(MAX_ANSWER_BYTES);
    if bounded.read_until(b'\n', &mut line).await.is_err() {
        return Err(no_answer);
    }
    let Ok(answer) = serde_json::from_slice::<Value>(&line) else {
        return Err(no_answer);
    };
    match answer["error"].as_str() {
        None => Ok(answer),
        Some(reason) => Err(PageError::Refused {
            method: METHOD,
            message: crate::text::excerpt(reason, 400),
        }),
    }
}
