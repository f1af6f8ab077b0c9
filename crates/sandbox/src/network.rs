//! The network of a sandbox: the addresses on the link between a guest and its gateway, and what
//! its user may ask and change.
//!
//! Every sandbox has a link of its own, with nobody on it but these two, so all sandboxes have
//! the same addresses. What may be reached over it is part of the sandbox's specification; whoever
//! holds the sandbox's lock changes it, which is its supervisor while it runs.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use smolvm_network::{Limits, LinkConfig, NetworkPolicy, PolicyError, Rule, RuleError};
use smolvm_protocol::control::{NetworkChange, SupervisorReply, SupervisorRequest};
use smolvm_protocol::message::{GuestNetwork, InterfaceAddress};

use crate::access::AccessError;
use crate::engine::NetworkDevice;
use crate::record::RecordError;
use crate::store::StoreError;
use crate::{ErrorKind, Sandbox, SandboxSpec};

/// Hardware address of the gateway; see [`GUEST_MAC`].
pub const GATEWAY_MAC: [u8; 6] = [0x02, b's', b'm', b'o', b'l', b'g'];

/// The IPv4 address that stands for the host's loopback: what `host.smolvm.internal` resolves to.
/// It is outside the link, so that the guest hands packets to it to the gateway unasked. There is
/// none for IPv6: what listens on a loopback listens on 127.0.0.1, as a rule.
pub const HOST_IPV4: Ipv4Addr = Ipv4Addr::new(172, 16, 255, 254);

/// Hardware address of the guest. Its first byte says that nobody administers it but us (IEEE
/// 802, "locally administered"); the rest spells `smolv`.
pub const GUEST_MAC: [u8; 6] = [0x02, b's', b'm', b'o', b'l', b'v'];

/// The guest's IPv4 address, in a range that is private (RFC 1918) and rarely a home's or an
/// office's.
pub const GUEST_IPV4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// The gateway's IPv4 address. It is the guest's name server too.
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

/// Leading bits that both IPv4 addresses have in common.
pub const IPV4_PREFIX_LENGTH: u8 = 24;

/// The guest's IPv6 address. `fd` and forty bits of its maker's choice begin an address that is
/// unique to a site (RFC 4193 §3.1); they spell `smolv`.
pub const GUEST_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6d6f, 0x6c76, 0, 0, 0, 0, 2);

/// The gateway's IPv6 address.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6d6f, 0x6c76, 0, 0, 0, 0, 1);

/// Leading bits that both IPv6 addresses have in common.
pub const IPV6_PREFIX_LENGTH: u8 = 64;

/// Addresses that stand for peers, each for one of them as long as the gateway lives. They are
/// outside the link, as [`HOST_IPV4`] is. There are none of IPv6: what listens for others listens on
/// IPv4, as a rule, and a name with two addresses is refused at one of them first.
pub const PEER_IPV4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 64, 0), 18);

/// Largest packet on the link, in bytes. Each one costs the same work in the VMM and the gateway,
/// however long it is, so the largest multiple of 16 is taken that fits an IPv4 packet's length
/// (RFC 791 §3.1). With its Ethernet header it is below what QEMU takes in one piece (69,632
/// bytes; QEMU 7.2, include/net/net.h, `NET_BUFSIZE`).
pub const MTU: u16 = 65_520;

/// Returns the network device of a guest with a network.
#[must_use]
pub const fn device() -> NetworkDevice {
    NetworkDevice {
        mac: GUEST_MAC,
        mtu: MTU,
    }
}

/// Returns what the guest is told about the link that `device` is on.
#[must_use]
pub fn guest_side(device: NetworkDevice) -> GuestNetwork {
    GuestNetwork {
        mac: device.mac,
        mtu: device.mtu,
        ipv4: InterfaceAddress {
            address: GUEST_IPV4,
            prefix_length: IPV4_PREFIX_LENGTH,
            gateway: GATEWAY_IPV4,
        },
        ipv6: Some(InterfaceAddress {
            address: GUEST_IPV6,
            prefix_length: IPV6_PREFIX_LENGTH,
            gateway: GATEWAY_IPV6,
        }),
        dns: vec![GATEWAY_IPV4.into()],
        hosts: Vec::new(),
    }
}

/// Returns the link that `device` is on, as the gateway sees it.
pub(crate) fn gateway_side(device: NetworkDevice) -> LinkConfig {
    let ipv4 = Ipv4Net::new(GATEWAY_IPV4, IPV4_PREFIX_LENGTH);
    let ipv6 = ipnet::Ipv6Net::new(GATEWAY_IPV6, IPV6_PREFIX_LENGTH);
    LinkConfig {
        guest_mac: device.mac,
        gateway_mac: GATEWAY_MAC,
        guest: vec![GUEST_IPV4.into(), GUEST_IPV6.into()],
        gateway: vec![
            ipv4.expect("24 bits are a legal prefix").into(),
            ipv6.expect("64 bits are a legal prefix").into(),
        ],
        host: vec![HOST_IPV4.into()],
        mtu: device.mtu,
    }
}

/// Returns how much of the host's network a sandbox may use.
pub(crate) fn limits_of(spec: &SandboxSpec) -> Limits {
    // Bits to bytes.
    let rate = spec
        .network_rate_mbps
        .map(|rate| u64::from(rate) * 1_000_000 / 8);
    Limits {
        upload_bytes_per_second: rate,
        download_bytes_per_second: rate,
        ..Limits::default()
    }
}

/// Why a network policy could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A rule is not one.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A rule that was to go is not there.
    #[error("there is no rule '{rule}'")]
    NoSuchRule {
        /// The rule.
        rule: String,
    },
    /// The policy would not be legal.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The policy cannot be saved.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The sandbox's supervisor cannot be told.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl NetworkError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Rule(_) | Self::Policy(_) => ErrorKind::InvalidInput,
            Self::NoSuchRule { .. } => ErrorKind::NotFound,
            Self::Store(error) => error.kind(),
            Self::Record(error) => error.kind(),
            Self::Access(error) => error.kind(),
        }
    }
}

/// Returns `policy` after `change`.
pub(crate) fn changed(
    policy: &NetworkPolicy,
    change: &NetworkChange,
) -> Result<NetworkPolicy, NetworkError> {
    let mode = match &change.mode {
        Some(mode) => mode.parse()?,
        None => policy.mode(),
    };
    let mut rules = match change.clears_rules {
        true => Vec::new(),
        false => policy.rules().to_vec(),
    };
    for text in &change.remove {
        let rule: Rule = text.parse()?;
        let before = rules.len();
        rules.retain(|other| *other != rule);
        if rules.len() == before {
            return Err(NetworkError::NoSuchRule { rule: text.clone() });
        }
    }
    for text in &change.add {
        let rule: Rule = text.parse()?;
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    Ok(NetworkPolicy::new(mode, rules)?)
}

impl Sandbox {
    /// Returns what the sandbox may reach.
    ///
    /// # Errors
    ///
    /// When it is gone or its description damaged.
    pub fn network_policy(&self) -> Result<NetworkPolicy, StoreError> {
        Ok(self.info()?.spec.network)
    }

    /// Changes what the sandbox may reach, at once where it runs. A sandbox that was started
    /// without a network has one from its next start on.
    ///
    /// # Errors
    ///
    /// When the change is not legal; nothing is changed then.
    pub async fn change_network(&self, change: &NetworkChange) -> Result<(), NetworkError> {
        // Said here with its column, rather than by the supervisor in one line.
        changed(&self.network_policy()?, change)?;
        let request = SupervisorRequest::ChangeNetwork(change.clone());
        match self.access().ask(&request).await {
            Ok(SupervisorReply::Done) => Ok(()),
            Ok(_) => Err(AccessError::Unexpected.into()),
            Err(AccessError::NotRunning { .. }) => self.change_network_at_rest(change).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn change_network_at_rest(&self, change: &NetworkChange) -> Result<(), NetworkError> {
        let (store, id) = (self.access().store.clone(), self.id().clone());
        let change = change.clone();
        tokio::task::spawn_blocking(move || {
            let lock = store.lock(&id)?;
            let (spec, _) = lock.directory().read_spec()?;
            lock.directory()
                .write_network(&changed(&spec.network, &change)?)?;
            Ok(())
        })
        .await
        .expect("changing a file does not panic and is never cancelled")
    }
}

#[cfg(test)]
mod tests {
    use smolvm_network::Mode;

    use super::*;

    fn policy(rules: &[&str]) -> NetworkPolicy {
        let rules = rules.iter().map(|rule| rule.parse().expect("a rule"));
        NetworkPolicy::new(Mode::Restricted, rules.collect()).expect("few rules")
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn rules_go_before_they_come_and_are_there_once() {
        let change = NetworkChange {
            remove: words(&["allow a.example"]),
            add: words(&["allow a.example:443", "allow b.example"]),
            ..NetworkChange::default()
        };
        let after = changed(&policy(&["allow a.example", "allow b.example"]), &change);
        assert_eq!(
            after.expect("legal"),
            policy(&["allow b.example", "allow a.example:443"])
        );
    }

    #[test]
    fn new_mode_without_rules_forgets_the_old_ones() {
        let change = NetworkChange {
            mode: Some("open".to_owned()),
            clears_rules: true,
            ..NetworkChange::default()
        };
        let after = changed(&policy(&["deny a.example"]), &change).expect("legal");
        assert_eq!((after.mode(), after.rules()), (Mode::Open, &[][..]));
    }

    #[test]
    fn change_that_makes_no_sense_names_what_is_wrong() {
        let error = |change: NetworkChange| changed(&policy(&[]), &change).expect_err("refused");
        let mode = NetworkChange {
            mode: Some("closed".to_owned()),
            ..NetworkChange::default()
        };
        assert!(matches!(error(mode), NetworkError::Policy(_)));
        let gone = NetworkChange {
            remove: words(&["allow a.example"]),
            ..NetworkChange::default()
        };
        assert!(matches!(error(gone), NetworkError::NoSuchRule { .. }));
        let bad = NetworkChange {
            add: words(&["allow a.example:0"]),
            ..NetworkChange::default()
        };
        assert!(matches!(error(bad), NetworkError::Rule(_)));
    }
}
