//! Where a target's tasks run, and where their events go.

use std::io;
use std::sync::LazyLock;

use smolvm_network::{EventLog, EventSink};
use tokio::runtime::Builder;

/// Runs a target without sockets: tokio panics when one is opened on this runtime, which is how a
/// target sees that nothing of the host's is reached.
pub(crate) fn without_sockets<T>(work: impl Future<Output = T>) -> T {
    run(Builder::new_current_thread().enable_time(), work)
}

/// Runs a target that has sockets on loopback.
pub(crate) fn with_sockets<T>(work: impl Future<Output = T>) -> T {
    run(Builder::new_current_thread().enable_all(), work)
}

fn run<T>(builder: &mut Builder, work: impl Future<Output = T>) -> T {
    let runtime = builder.start_paused(true).build().expect("a runtime");
    runtime.block_on(work)
}

/// Returns where events go: they are written, and the writing goes nowhere.
pub(crate) fn events() -> EventSink {
    static SINK: LazyLock<EventSink> = LazyLock::new(|| {
        let (sink, _log) = EventLog::start(io::sink()).expect("a thread");
        sink
    });
    SINK.clone()
}
