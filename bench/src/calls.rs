//! `smolvm-bench calls`: what the library takes to run `true` in a sandbox that runs already.
//!
//! `bench/python` compares it with what the Python package takes in the same sandbox.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smolvm_sandbox::{Installation, Sandbox};
use tokio::runtime::Runtime;

use crate::subject;

/// Calls before those that count.
const WARM_UP: usize = 20;

/// What to call, and how often.
#[derive(Debug)]
pub(crate) struct Calls {
    data_dir: PathBuf,
    id: String,
    count: usize,
}

impl Calls {
    /// Takes the words of a command line: data directory, sandbox, number of calls.
    pub(crate) fn parse(words: &[String]) -> Result<Self, Box<dyn Error>> {
        let [data_dir, id, count] = words else {
            return Err("usage: smolvm-bench calls DATA_DIR SANDBOX COUNT".into());
        };
        Ok(Self {
            data_dir: data_dir.into(),
            id: id.clone(),
            count: count.parse()?,
        })
    }

    /// Returns how long each call took.
    pub(crate) fn measure(&self, runtime: &Runtime) -> Result<Vec<Duration>, Box<dyn Error>> {
        // Nothing is started here, so no programs are needed.
        let installation = Installation {
            data_dir: self.data_dir.clone(),
            cache_dir: PathBuf::new(),
            smolvm: PathBuf::new(),
            vmm: PathBuf::new(),
            agent: PathBuf::new(),
            qemu: None,
        };
        let sandbox = Sandbox::open(Arc::new(installation), self.id.parse()?)?;
        let mut durations = Vec::with_capacity(self.count);
        for _ in 0..WARM_UP + self.count {
            durations.push(runtime.block_on(subject::exec_true(&sandbox))?);
        }
        Ok(durations.split_off(WARM_UP))
    }
}
