//! Pictures of a page.

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};

use super::cdp::{PATIENCE, Page, PageError, last_used};
use crate::Sandbox;

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
) -> Result<Vec<u8>, PageError> {
    let take = async {
        let mut page = Page::connect(sandbox, &last_used(sandbox).await?).await?;
        capture(&mut page, is_full_page, format).await
    };
    tokio::time::timeout(PATIENCE, take)
        .await
        .map_err(|_| PageError::Slow)?
}

/// Takes a picture of a page: what its window shows, or all of it.
pub(super) async fn capture(
    page: &mut Page,
    is_full_page: bool,
    format: ImageFormat,
) -> Result<Vec<u8>, PageError> {
    let mut parameters = json!({"format": format.as_str()});
    if is_full_page {
        parameters["captureBeyondViewport"] = json!(true);
        parameters["clip"] = whole(page).await?;
    }
    let method = "Page.captureScreenshot";
    let captured = page.call(method, parameters).await?;
    captured["data"]
        .as_str()
        .and_then(|data| Base64::decode_vec(data).ok())
        .ok_or(PageError::NoAnswer { method })
}

/// Returns the part of the page that is all of it. Its content is narrower than its window by
/// a scrollbar, which the picture does not have.
async fn whole(page: &mut Page) -> Result<Value, PageError> {
    let metrics = page.call("Page.getLayoutMetrics", json!({})).await?;
    let content = &metrics["cssContentSize"];
    let expression = json!({"expression": "innerWidth"});
    let window = page.call("Runtime.evaluate", expression).await?;
    let window = window["result"]["value"].as_f64().unwrap_or_default();
    let width = content["width"].as_f64().unwrap_or_default().max(window);
    Ok(json!({"x": 0, "y": 0, "width": width, "height": content["height"], "scale": 1}))
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
