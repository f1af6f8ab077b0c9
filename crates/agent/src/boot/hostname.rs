//! The guest's host name, from the kernel's command line.

use std::fs;
use std::io::{self, Write};

use smolvm_protocol::HOSTNAME_PARAMETER;

use super::console;

/// Longest host name (sethostname(2), `__NEW_UTS_LEN`), in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Sets the host name that `command_line` carries, if it carries one; with `writes_files` also
/// in `/etc`. A guest whose name cannot be set runs without it.
pub(crate) fn set(command_line: &str, writes_files: bool) {
    let Some(name) = name_in(command_line) else {
        return;
    };
    let set = || -> io::Result<()> {
        rustix::system::sethostname(name.as_bytes())?;
        if writes_files {
            fs::write("/etc/hostname", format!("{name}\n"))?;
            add_to_hosts(name)?;
        }
        Ok(())
    };
    if let Err(error) = set() {
        console::report(&format!("host name not set: {error}"));
    }
}

fn name_in(command_line: &str) -> Option<&str> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(HOSTNAME_PARAMETER)?.strip_prefix('='))
        .rfind(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES)
}

/// Makes the name resolve without a network: 127.0.1.1 is Debian's address for it (Debian
/// Reference, "5.1.1 The hostname resolution").
fn add_to_hosts(name: &str) -> io::Result<()> {
    let existing = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut hosts = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open("/etc/hosts")?;
    if existing.is_empty() {
        hosts.write_all(b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")?;
    } else if !existing.ends_with('\n') {
        hosts.write_all(b"\n")?;
    }
    writeln!(hosts, "127.0.1.1\t{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_found_among_other_parameters() {
        let command_line = "console=ttyS0 smolvm.hostname=box-1 quiet\n";
        assert_eq!(name_in(command_line), Some("box-1"));
    }

    #[test]
    fn missing_empty_or_overlong_name_is_none() {
        let overlong = format!("smolvm.hostname={}", "x".repeat(MAX_NAME_BYTES + 1));
        assert_eq!(name_in("quiet smolvm.hostnames=x"), None);
        assert_eq!(name_in("smolvm.hostname="), None);
        assert_eq!(name_in(&overlong), None);
    }
}
