//! Writes the seeds of every target into `DIRECTORY/TARGET`, where libFuzzer looks for them.

use std::path::PathBuf;
use std::{env, fs, io};

use smolvm_fuzz_bodies::TARGETS;

fn main() -> io::Result<()> {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: seeds DIRECTORY"));
    };
    for target in TARGETS {
        let directory = directory.join(target.name);
        fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
