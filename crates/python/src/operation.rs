//! Something that takes time, and the two ways to wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::failure::Failure;
use crate::runtime::runtime;

/// How often a waiting thread looks whether a signal, such as that of Ctrl-C, has arrived.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// Makes the Python object of a result, with the GIL.
type Conversion = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
type Work = Pin<Box<dyn Future<Output = Result<Conversion, Failure>> + Send>>;

/// Something that takes time. Nothing happens until somebody waits for it, once.
#[pyclass(frozen, module = "smolvm._native")]
pub(crate) struct Operation {
    work: Mutex<Option<Work>>,
    /// Whether it may be done at once.
    is_eager: bool,
}

impl Operation {
    /// Returns an operation that does `work` and turns its result into a Python object.
    pub(crate) fn new<T, E>(
        work: impl Future<Output = Result<T, E>> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Self
    where
        T: Send + 'static,
        E: Into<Failure>,
    {
        let work = async move {
            let value = work.await.map_err(Into::into)?;
            let conversion: Conversion = Box::new(move |py| convert(py, value));
            Ok(conversion)
        };
        Self {
            work: Mutex::new(Some(Box::pin(work))),
            is_eager: false,
        }
    }

    /// Has whoever awaits it look first whether it is done at once. Not for work whose first step
    /// takes time: it is done in the event loop's thread.
    pub(crate) fn eager(mut self) -> Self {
        self.is_eager = true;
        self
    }

    /// Returns an operation without a result.
    pub(crate) fn silent<E: Into<Failure>>(
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Self {
        Self::new(work, |py, ()| Ok(py.None()))
    }

    fn take(&self) -> PyResult<Work> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.take()
            .ok_or_else(|| PyRuntimeError::new_err("this operation has been waited for already"))
    }
}

#[pymethods]
impl Operation {
    /// Waits without the GIL. A signal whose handler raises ends the work.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut work = self.take()?;
        let runtime = runtime(py)?;
        loop {
            let outcome = py.detach(|| {
                runtime.block_on(async { tokio::time::timeout(SIGNAL_INTERVAL, &mut work).await })
            });
            match outcome {
                Ok(Ok(convert)) => return convert(py),
                Ok(Err(failure)) => return Err(failure.into_py_err(py)),
                Err(_) => {
                    if let Err(interrupt) = py.check_signals() {
                        // What the work holds may need the runtime to let go of it.
                        let _entered = runtime.enter();
                        drop(work);
                        return Err(interrupt);
                    }
                }
            }
        }
    }

    /// Starts the work and waits in the running event loop. Cancelling ends the work.
    fn __await__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event_loop = py.import("asyncio")?.call_method0("get_running_loop")?;
        let future = event_loop.call_method0("create_future")?;
        let mut work = self.take()?;
        let runtime = runtime(py)?;
        if self.is_eager {
            let _entered = runtime.enter();
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(outcome) = work.as_mut().poll(&mut context) {
                match outcome {
                    Ok(convert) => future.call_method1("set_result", (convert(py)?,))?,
                    Err(failure) => return Err(failure.into_py_err(py)),
                };
                return future.call_method0("__await__");
            }
        }
        let completion = Completion {
            event_loop: event_loop.unbind(),
            future: future.clone().unbind(),
        };
        let threads = Arc::downgrade(&runtime);
        let task = runtime.spawn(async move {
            let outcome = work.await;
            // Taking the GIL can take long; other tasks must go on meanwhile.
            if let Some(threads) = threads.upgrade() {
                threads.hand_over(move || completion.deliver(outcome));
            }
        });
        let cancel = Cancel {
            task: task.abort_handle(),
        };
        future.call_method1("add_done_callback", (cancel,))?;
        future.call_method0("__await__")
    }
}

/// Where the outcome of awaited work goes.
struct Completion {
    event_loop: Py<PyAny>,
    future: Py<PyAny>,
}

impl Completion {
    fn deliver(self, outcome: Result<Conversion, Failure>) {
        // Without an interpreter there is nobody to tell.
        let _delivered = Python::try_attach(|py| {
            let result = match outcome {
                Ok(convert) => convert(py),
                Err(failure) => Err(failure.into_py_err(py)),
            };
            let settle = Settle {
                future: self.future.clone_ref(py),
                result: Mutex::new(Some(result)),
            };
            // A loop that is closed has nobody waiting.
            let _closed = self
                .event_loop
                .call_method1(py, "call_soon_threadsafe", (settle,));
        });
    }
}

/// Called in the event loop's thread: gives a future its outcome.
#[pyclass(frozen)]
struct Settle {
    future: Py<PyAny>,
    result: Mutex<Option<PyResult<Py<PyAny>>>>,
}

#[pymethods]
impl Settle {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let mut slot = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(result) = slot.take() else {
            return Ok(());
        };
        drop(slot);
        let future = self.future.bind(py);
        if future.call_method0("done")?.is_truthy()? {
            return Ok(());
        }
        match result {
            Ok(value) => future.call_method1("set_result", (value,))?,
            Err(error) => future.call_method1("set_exception", (error.into_value(py),))?,
        };
        Ok(())
    }
}

/// Called when a future is done: ends the work behind it, if it was cancelled.
#[pyclass(frozen)]
struct Cancel {
    task: AbortHandle,
}

#[pymethods]
impl Cancel {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        self.task.abort();
    }
}
