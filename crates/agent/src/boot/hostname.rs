//! The guest's host name: from the kernel's command line, and another one later where the guest is
//! started from a recording.

use std::fs;
use std::io::{self, Write};

use smolvm_protocol::HOSTNAME_PARAMETER;

use super::console;

/// Longest host name (sethostname(2), `__NEW_UTS_LEN`), in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Debian's address for the name of a host (Debian Reference, "5.1.1 The hostname resolution").
const OWN_ADDRESS: &str = "127.0.1.1";

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

/// Gives the guest another host name, also in `/etc` where its files have the old one.
///
/// # Errors
///
/// When the name is none, or the kernel or a file does not take it.
pub(crate) fn change(name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let old = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    rustix::system::sethostname(name.as_bytes())?;
    let is_ours = |text: &str| text.trim_end() == old;
    if fs::read_to_string("/etc/hostname").is_ok_and(|text| is_ours(&text)) {
        fs::write("/etc/hostname", format!("{name}\n"))?;
    }
    let Ok(hosts) = fs::read_to_string("/etc/hosts") else {
        return Ok(());
    };
    let changed = with_name(&hosts, &old, name);
    if changed == hosts {
        Ok(())
    } else {
        fs::write("/etc/hosts", changed)
    }
}

/// Returns the lines of `/etc/hosts` with `name` in the one that [`add_to_hosts`] made for `old`.
fn with_name(hosts: &str, old: &str, name: &str) -> String {
    let line = |name: &str| format!("{OWN_ADDRESS}\t{name}\n");
    hosts.replace(&line(old), &line(name))
}

fn name_in(command_line: &str) -> Option<&str> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(HOSTNAME_PARAMETER)?.strip_prefix('='))
        .rfind(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES)
}

/// Makes the name resolve without a network.
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
    writeln!(hosts, "{OWN_ADDRESS}\t{name}")
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
    fn other_name_takes_the_place_of_the_old_one_and_of_nothing_else() {
        let hosts = "127.0.0.1\tlocalhost\n127.0.1.1\tbox\n10.0.0.1\tbox\n";
        let expected = "127.0.0.1\tlocalhost\n127.0.1.1\tother\n10.0.0.1\tbox\n";
        assert_eq!(with_name(hosts, "box", "other"), expected);
        assert_eq!(with_name(hosts, "bo", "other"), hosts);
    }

    #[test]
    fn missing_empty_or_overlong_name_is_none() {
        let overlong = format!("smolvm.hostname={}", "x".repeat(MAX_NAME_BYTES + 1));
        assert_eq!(name_in("quiet smolvm.hostnames=x"), None);
        assert_eq!(name_in("smolvm.hostname="), None);
        assert_eq!(name_in(&overlong), None);
    }
}
