//! The threads that everything asynchronous runs on: one small runtime, made on first use.
//!
//! A child made by fork(2) has none of its parent's threads, so it makes a runtime of its own. The
//! slot's lock is only ever held with the GIL and never while waiting; as fork(2) through Python
//! happens with the GIL held, too, no child finds it locked.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::TaskTracker;

use crate::failure::Failure;

/// Threads of the runtime. They move bytes and wait; two let one stall for a moment.
const WORKERS: usize = 2;

static RUNTIME: Mutex<Option<Arc<Threads>>> = Mutex::new(None);

/// How long results that are being handed over may keep the interpreter from ending.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// The threads, and what they hand over to Python.
pub(crate) struct Threads {
    runtime: Runtime,
    /// Threads that attach to the interpreter. None may while it ends: it would end them in the
    /// middle of Rust's code, which aborts the process.
    hand_overs: TaskTracker,
}

impl Deref for Threads {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

impl Threads {
    /// Has a thread of its own call `hand_over`, unless the interpreter is about to end.
    pub(crate) fn hand_over(self: &Arc<Self>, hand_over: impl FnOnce() + Send + 'static) {
        let threads = Arc::downgrade(self);
        self.hand_overs.spawn_blocking_on(
            move || {
                let is_open = threads
                    .upgrade()
                    .is_some_and(|threads| !threads.hand_overs.is_closed());
                if is_open {
                    hand_over();
                }
            },
            self.runtime.handle(),
        );
    }

    /// Waits, without the GIL, for what is being handed over; later results are dropped.
    pub(crate) fn finish(&self) {
        self.hand_overs.close();
        let finished = self.hand_overs.wait();
        // What takes longer waits for something that does not come any more.
        let _unfinished = self
            .runtime
            .block_on(async { tokio::time::timeout(HAND_OVER_PATIENCE, finished).await });
    }
}

/// Returns the process's runtime.
pub(crate) fn runtime(py: Python<'_>) -> PyResult<Arc<Threads>> {
    let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*slot {
        return Ok(runtime.clone());
    }
    register_hooks(py)?;
    let made = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("smolvm")
        .enable_all()
        .build()
        .map_err(|source| Failure::Host {
            action: "start the threads of the SDK".to_owned(),
            source,
        });
    let threads = Arc::new(Threads {
        runtime: made.map_err(|failure| failure.into_py_err(py))?,
        hand_overs: TaskTracker::new(),
    });
    *slot = Some(threads.clone());
    Ok(threads)
}

/// Lets go of the parent's runtime, whose threads this process does not have.
pub(crate) fn forget() {
    let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    // Dropping it would wait for those threads.
    std::mem::forget(slot.take());
}

/// Has the interpreter call this module when the process forks and when it ends.
fn register_hooks(py: Python<'_>) -> PyResult<()> {
    static HAVE_HOOKS: Mutex<bool> = Mutex::new(false);

    let mut have_hooks = HAVE_HOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    if *have_hooks {
        // A child inherits both.
        return Ok(());
    }
    let module = py.import("smolvm._native")?;
    let keywords = PyDict::new(py);
    keywords.set_item("after_in_child", module.getattr("after_fork")?)?;
    py.import("os")?
        .call_method("register_at_fork", (), Some(&keywords))?;
    py.import("atexit")?
        .call_method1("register", (module.getattr("at_exit")?,))?;
    *have_hooks = true;
    Ok(())
}
