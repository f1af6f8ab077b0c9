//! What has been made and may have nobody any more who wants it.
//!
//! ```text
//!   make ──> [`Unclaimed`] ──channel──> operation ──loop──> [`Created`] ──.take()──> Python object
//!                └────────────────┴─────────────────┴────────────┘
//!                  dropped anywhere on this way: deleted
//! ```
//!
//! A task can be cancelled at any moment until its next step runs, also when what it waits for
//! has long been made. So it is not enough to look whether somebody waits when it is made.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::operation::Operation;

/// What can be handed to Python, and be deleted when nobody wants it any more.
pub(crate) trait Claim: Send + 'static {
    /// Returns the Python object that it becomes.
    fn claim(self, py: Python<'_>) -> PyResult<Py<PyAny>>;

    /// Deletes it.
    fn discard(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Something that is deleted unless it is taken out.
struct Unclaimed<T: Claim> {
    made: Option<T>,
    /// Where it is deleted.
    runtime: Handle,
}

impl<T: Claim> Drop for Unclaimed<T> {
    fn drop(&mut self) {
        if let Some(unwanted) = self.made.take() {
            self.runtime.spawn(async move {
                // What cannot be deleted goes with this process.
                let _deleted = unwanted.discard().await;
            });
        }
    }
}

/// An [`Unclaimed`] of some type.
trait Take: Send {
    fn take(self: Box<Self>, py: Python<'_>) -> PyResult<Py<PyAny>>;
}

impl<T: Claim> Take for Unclaimed<T> {
    fn take(mut self: Box<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let made = self.made.take().expect("it is taken once, with the box");
        made.claim(py)
    }
}

/// Something that has been made, and is deleted with this object unless it is taken out.
#[pyclass(frozen, module = "smolvm._native")]
pub(crate) struct Created {
    content: Mutex<Option<Box<dyn Take>>>,
}

#[pymethods]
impl Created {
    /// Takes it out, once.
    fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = content.take();
        drop(content);
        taken
            .ok_or_else(|| PyRuntimeError::new_err("this has been taken out already"))?
            .take(py)
    }
}

/// Returns an operation that makes something to the end, whether somebody waits or not.
pub(crate) fn create<T: Claim>(
    make: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Operation {
    let work = async move {
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let made = make.await.map(|made| Unclaimed {
                made: Some(made),
                runtime: Handle::current(),
            });
            // Without a receiver it is dropped here, which deletes it.
            let _unwanted = sender.send(made);
        });
        receiver
            .await
            .expect("making a sandbox does not panic and is never cancelled")
    };
    Operation::new(work, |py, unclaimed: Unclaimed<T>| {
        let content: Box<dyn Take> = Box::new(unclaimed);
        let created = Created {
            content: Mutex::new(Some(content)),
        };
        Ok(Py::new(py, created)?.into_any())
    })
}
