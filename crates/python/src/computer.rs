//! Mouse and keyboard of a browser session, as Python's two classes hold them.

use std::sync::Arc;

use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use smolvm_sandbox::{BrowserError, BrowserSession as Library, Chord};

use crate::operation::Operation;

/// A point of the page's window in CSS pixels.
type Point = (f64, f64);

/// Mouse and keyboard of a browser session.
#[pyclass(frozen, module = "smolvm._native")]
pub(crate) struct Computer {
    library: Arc<Library>,
}

impl Computer {
    pub(crate) const fn new(library: Arc<Library>) -> Self {
        Self { library }
    }
}

#[pymethods]
impl Computer {
    fn screenshot(&self) -> Operation {
        let library = self.library.clone();
        let work = async move { library.computer()?.screenshot().await };
        Operation::new(work, |py, image| {
            Ok(PyBytes::new(py, &image).into_any().unbind())
        })
    }

    fn click(&self, point: Point, button: String, keys: Vec<String>, count: u8) -> Operation {
        let library = self.library.clone();
        Operation::silent::<BrowserError>(async move {
            let (button, keys) = (button.parse()?, Chord::new(&keys)?);
            let computer = library.computer()?;
            computer.click(point, button, &keys, count).await
        })
    }

    fn move_to(&self, point: Point, keys: Vec<String>) -> Operation {
        let library = self.library.clone();
        Operation::silent::<BrowserError>(async move {
            let keys = Chord::new(&keys)?;
            library.computer()?.move_to(point, &keys).await
        })
    }

    fn press(&self, button: String, keys: Vec<String>) -> Operation {
        let library = self.library.clone();
        Operation::silent::<BrowserError>(async move {
            let (button, keys) = (button.parse()?, Chord::new(&keys)?);
            library.computer()?.press(button, &keys).await
        })
    }

    fn release(&self, button: String, keys: Vec<String>) -> Operation {
        let library = self.library.clone();
        Operation::silent::<BrowserError>(async move {
            let (button, keys) = (button.parse()?, Chord::new(&keys)?);
            library.computer()?.release(button, &keys).await
        })
    }

    fn drag(&self, path: Vec<Point>, button: String, keys: Vec<String>) -> Operation {
        let library = self.library.clone();
        Operation::silent::<BrowserError>(async move {
            let (button, keys) = (button.parse()?, Chord::new(&keys)?);
            library.computer()?.drag(&path, button, &keys).await
        })
    }

    fn scroll(&self, point: Point, delta: Point, keys: Vec<String>) -> Operation {
        let library = self.library.clone();
        Operation::silent::<BrowserError>(async move {
            let keys = Chord::new(&keys)?;
            library.computer()?.scroll(point, delta, &keys).await
        })
    }

    fn type_text(&self, text: String) -> Operation {
        let library = self.library.clone();
        Operation::silent(async move { library.computer()?.type_text(&text).await })
    }

    fn press_keys(&self, keys: Vec<String>, seconds: f64) -> Operation {
        let library = self.library.clone();
        Operation::silent::<BrowserError>(async move {
            let keys = Chord::new(&keys)?;
            library.computer()?.press_keys(&keys, seconds).await
        })
    }

    fn wait(&self, seconds: f64) -> Operation {
        let library = self.library.clone();
        Operation::silent(async move { library.computer()?.wait(seconds).await })
    }

    fn pointer(&self) -> Operation {
        let library = self.library.clone();
        let work = async move { Ok::<_, BrowserError>(library.computer()?.pointer().await) };
        Operation::new(work, |py, point| point.into_py_any(py))
    }

    fn current_url(&self) -> Operation {
        let library = self.library.clone();
        let work = async move { library.computer()?.current_url().await };
        Operation::new(work, |py, url| url.into_py_any(py))
    }

    fn goto(&self, url: String) -> Operation {
        let library = self.library.clone();
        Operation::silent(async move { library.computer()?.goto(&url).await })
    }

    /// Kind, message and default text of the dialog that the page shows.
    fn dialog(&self) -> Operation {
        let library = self.library.clone();
        let work = async move { library.computer()?.dialog().await };
        Operation::new(work, |py, dialog| {
            let parts = dialog.map(|dialog| (dialog.kind, dialog.message, dialog.default_text));
            parts.into_py_any(py)
        })
    }

    fn answer_dialog(&self, accept: bool, text: Option<String>) -> Operation {
        let library = self.library.clone();
        Operation::silent(async move {
            let computer = library.computer()?;
            computer.answer_dialog(accept, text.as_deref()).await
        })
    }
}
