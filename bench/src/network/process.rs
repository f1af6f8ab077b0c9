//! A process that ends with what owns it, and what it has used so far (proc(5)).

use std::error::Error;
use std::fs;
use std::process::Child;

use rustix::process::{Resource, getrlimit, setrlimit};

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) const fn new(child: Child) -> Self {
        Self(child)
    }

    /// Returns the seconds that its threads have kept a processor busy.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Box<dyn Error>> {
        cpu_seconds(self.0.id())
    }

    /// Returns the memory that is its own, in KiB: what is resident and not of a file.
    pub(crate) fn memory_kib(&self) -> Result<f64, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .ok_or("no RssAnon")?;
        Ok(line.trim_end_matches("kB").trim().parse()?)
    }
}

/// Returns the seconds that a process's threads have kept a processor busy, but for threads that have
/// ended (kernel, Documentation/scheduler/sched-stats.rst). Other files tell only hundredths.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64, Box<dyn Error>> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
        let busy = statistics.split(' ').next().ok_or("no time on the CPU")?;
        nanoseconds += busy.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already needs no end.
        let _ended = self.0.kill();
        let _collected = self.0.wait();
    }
}

/// Allows as many open files as the host allows, as the supervisor does: each connection is one.
pub(crate) fn raise_descriptor_limit() -> Result<(), Box<dyn Error>> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
