//! What a caller hears while an artefact is prepared.

/// Receives what a preparation is doing, for progress bars and logs.
///
/// Steps do not nest: `started` comes first, then any number of `advanced`, then `finished`. A
/// step that fails has no `finished`; the function's error says what happened. Calls may come
/// from more than one thread, one at a time.
pub trait Progress: Send + Sync {
    /// A step begins. `total` is its size in bytes, where that is known.
    fn started(&self, step: &str, total: Option<u64>);

    /// `done` bytes of the current step are behind us.
    fn advanced(&self, done: u64);

    /// How far the current step is, in words, where bytes do not tell. Comes often.
    fn detail(&self, _detail: &str) {}

    /// The step named at its start is complete.
    fn finished(&self, step: &str);

    /// Something odd was found and handled; the user may want to know.
    fn warning(&self, message: &str);
}

/// Hears everything and says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&self, _step: &str, _total: Option<u64>) {}
    fn advanced(&self, _done: u64) {}
    fn finished(&self, _step: &str) {}
    fn warning(&self, _message: &str) {}
}

/// Reports `step` as started, runs it, and reports it as finished when it succeeds.
pub(crate) fn step<T, E>(
    progress: &dyn Progress,
    name: &str,
    total: Option<u64>,
    run: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    progress.started(name, total);
    let result = run();
    if result.is_ok() {
        progress.finished(name);
    }
    result
}
