//! Checks of what the network of sandboxes takes from the host.

use std::fs;

use super::Check;

/// Where the host's name servers are written (resolv.conf(5)).
const RESOLVER_CONFIGURATION: &str = "/etc/resolv.conf";

/// Who may send pings (icmp(7)).
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Checks whom sandboxes ask for names.
pub(super) fn names() -> Check {
    let text = fs::read_to_string(RESOLVER_CONFIGURATION).unwrap_or_default();
    let servers: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    if servers.is_empty() {
        return Check::warn(
            "network",
            format!("{RESOLVER_CONFIGURATION} names no server; sandboxes resolve no names"),
            format!("write \"nameserver ADDRESS\" into {RESOLVER_CONFIGURATION}"),
        );
    }
    Check::pass(
        "network",
        format!("names are asked of {}", servers.join(", ")),
    )
}

/// Checks whether sandboxes can ping, which hardly anything needs.
pub(super) fn pings() -> Check {
    let range = fs::read_to_string(PING_GROUPS).unwrap_or_default();
    let bounds: Vec<u32> = range
        .split_whitespace()
        .filter_map(|bound| bound.parse().ok())
        .collect();
    let group = rustix::process::getegid().as_raw();
    match bounds[..] {
        [first, last] if (first..=last).contains(&group) => {
            Check::pass("pings", "sandboxes can ping where their policy allows it")
        }
        _ => Check::pass(
            "pings",
            "sandboxes cannot ping other hosts; sysctl net.ipv4.ping_group_range would let them",
        ),
    }
}
