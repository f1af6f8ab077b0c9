//! What can be found out about an installed QEMU without starting a machine.

use std::io;
use std::path::Path;

use crate::process;

/// Oldest version that boots our machines, as major and minor: 7.2 has network cards that end in a
/// stream (QEMU 7.2, `-netdev stream`).
pub const MIN_VERSION: (u32, u32) = (7, 2);

/// What an installed QEMU says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuFacts {
    /// Its version, as major and minor.
    pub version: (u32, u32),
    /// Its version in its own words, such as `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
    pub version_text: String,
    /// Whether it can restrict its own system calls (`-sandbox`).
    pub has_seccomp: bool,
}

/// Asks the QEMU at `program` about itself.
///
/// # Errors
///
/// When it cannot be run, or does not answer as a QEMU does.
pub async fn inspect(program: &Path) -> io::Result<QemuFacts> {
    // Options are taken in order: a QEMU without seccomp refuses the first and ends.
    let with_seccomp = process::ask(program, &["-sandbox", "on", "-version"]).await?;
    let (answer, has_seccomp) = if with_seccomp.is_empty() {
        (process::ask(program, &["-version"]).await?, false)
    } else {
        (with_seccomp, true)
    };
    let (version, version_text) = parse_version(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::other("it does not say which version it is"))?;
    Ok(QemuFacts {
        version,
        version_text,
        has_seccomp,
    })
}

/// Reads `QEMU emulator version 7.2.22 (Debian ...)`.
fn parse_version(answer: &str) -> Option<((u32, u32), String)> {
    let text = answer.lines().next()?.split_once("version ")?.1.trim();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some(((next()?, next()?), text.chars().take(100).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_with_and_without_a_package() {
        let packaged = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        let (version, text) = parse_version(packaged).expect("a version");
        assert_eq!(version, (7, 2));
        assert_eq!(text, "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)");
        let plain = parse_version("QEMU emulator version 10.0.2").expect("a version");
        assert_eq!(plain.0, (10, 0));
    }

    #[test]
    fn other_words_are_no_version() {
        for answer in ["", "QEMU", "version x.y", "version 7"] {
            assert!(parse_version(answer).is_none(), "{answer:?}");
        }
    }
}
