//! The sandboxes that end with this process: those it created without a name and has not let go.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use smolvm_sandbox::SandboxId;
use tokio::task::JoinSet;

use crate::core::Core;
use crate::runtime;

/// How long all sandboxes together may take to go when the interpreter ends. What is left then
/// goes when the process does, with its leases.
const EXIT_PATIENCE: Duration = Duration::from_secs(20);

/// The data directory and the name.
type Key = (PathBuf, SandboxId);

/// The owned sandboxes. Locked only for moments and with the GIL, so that a child made by fork(2)
/// never finds it locked.
static OWNED: Mutex<Option<HashMap<Key, Arc<Core>>>> = Mutex::new(None);

fn with<T>(change: impl FnOnce(&mut HashMap<Key, Arc<Core>>) -> T) -> T {
    let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
    change(owned.get_or_insert_default())
}

/// Takes note of a sandbox that ends with this process.
pub(crate) fn add(core: &Arc<Core>) {
    with(|owned| owned.insert(core.key(), core.clone()));
}

/// Forgets a sandbox that is gone or that this process has let go of.
pub(crate) fn remove(core: &Core) {
    with(|owned| owned.remove(&core.key()));
}

/// Returns the owned sandbox of this name, so that all handles on it are one.
pub(crate) fn find(key: &Key) -> Option<Arc<Core>> {
    with(|owned| owned.get(key).cloned())
}

/// In the child of a fork: lets go of all that belongs to the parent.
#[pyfunction]
pub(crate) fn after_fork() {
    runtime::forget();
    for core in with(std::mem::take).into_values() {
        core.forget_after_fork();
    }
}

/// At the interpreter's end: deletes what this process still owns.
#[pyfunction]
pub(crate) fn at_exit(py: Python<'_>) -> PyResult<()> {
    let owned = with(std::mem::take);
    let runtime = runtime::runtime(py)?;
    py.detach(|| {
        runtime.finish();
        if owned.is_empty() {
            return;
        }
        runtime.block_on(async {
            let mut deletions = JoinSet::new();
            for core in owned.into_values() {
                deletions.spawn(async move { core.delete().await });
            }
            // Whatever fails or takes too long, the next command reaps.
            let _unfinished = tokio::time::timeout(EXIT_PATIENCE, deletions.join_all()).await;
        });
    });
    Ok(())
}
