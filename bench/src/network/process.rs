//! A process that ends with what owns it, and what it has used so far (proc(5)).

use std::error::Error;
use std::fs;
use std::process::Child;

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) const fn new(child: Child) -> Self {
        Self(child)
    }

    /// Returns the seconds that it has kept a processor busy.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Box<dyn Error>> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit(") ").next().ok_or("no fields")?;
        // The third field is the first after the name; these are the 14th and 15th.
        let mut times = fields.split(' ').skip(11).map(str::parse::<u32>);
        let (user, system) = (
            times.next().ok_or("no utime")??,
            times.next().ok_or("no stime")??,
        );
        let ticks_per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
        Ok(f64::from(user + system) / f64::from(ticks_per_second))
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

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already needs no end.
        let _ended = self.0.kill();
        let _collected = self.0.wait();
    }
}
