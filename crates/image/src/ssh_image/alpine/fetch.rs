//! Getting a file from a mirror: over HTTP through apt's own downloader, or from this host.
//!
//! apt is what the rest of SmolVM's images come through already: it knows this host's proxies and
//! certificates, and it has deadlines. What arrives is checked by whoever asked for it.

use std::fs;
use std::path::{Path, PathBuf};

use super::AlpineError;
use crate::command::{Invocation, Program};

const TIMEOUT: Program = Program {
    name: "timeout",
    package: "coreutils",
};
const APT: Program = Program {
    name: "apt-get",
    package: "apt",
};

/// apt's downloader, in none of the directories of programs (apt, cmdline/apt-helper.cc).
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Largest file that is fetched: the largest we need has 20 MB. apt's own work files, which have
/// some 60 MB, are under the same limit.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Longest time for one file, in seconds.
const DEADLINE_SECONDS: &str = "600";

/// Fetches `path` below `base`, a URL or a directory, into the directory `work`.
pub(super) fn fetch(base: &str, path: &str, work: &Path) -> Result<PathBuf, AlpineError> {
    let location = format!("{}/{path}", base.trim_end_matches('/'));
    fetch_file(&location, work)
}

/// Fetches the file at `location`, a URL or a path, into the directory `work`.
pub(super) fn fetch_file(location: &str, work: &Path) -> Result<PathBuf, AlpineError> {
    let is_remote = location.starts_with("http://") || location.starts_with("https://");
    if is_remote {
        let name = location.rsplit('/').next().unwrap_or_default();
        let target = work.join(format!("download-{name}"));
        download(location, &target, work)?;
        check_size(location, &target)?;
        return Ok(target);
    }
    if location.contains("://") && !location.starts_with("file://") {
        return Err(AlpineError::Scheme {
            location: location.to_owned(),
        });
    }
    let path = PathBuf::from(location.strip_prefix("file://").unwrap_or(location));
    check_size(location, &path)?;
    Ok(path)
}

fn check_size(location: &str, path: &Path) -> Result<(), AlpineError> {
    let metadata = fs::metadata(path).map_err(|source| AlpineError::Read {
        path: path.to_owned(),
        source,
    })?;
    if metadata.is_file() && metadata.len() <= MAX_FILE_BYTES {
        Ok(())
    } else {
        Err(AlpineError::Content {
            what: location.to_owned(),
            reason: "it is no file, or larger than 256 MiB",
        })
    }
}

fn download(location: &str, target: &Path, work: &Path) -> Result<(), AlpineError> {
    let limit = format!("--fsize={MAX_FILE_BYTES}");
    let command = [DEADLINE_SECONDS, "prlimit", &limit, APT_HELPER];
    // The directory is closed to the user that apt would change to.
    let options = ["APT::Sandbox::User=root", "Acquire::http::Timeout=30"];
    Invocation::guarded(TIMEOUT, work)?
        .named(APT)
        .args(command)
        .args(options.iter().flat_map(|option| ["-o", option]))
        .args(["download-file", location])
        .args([target.as_os_str()])
        .output()?;
    Ok(())
}
