//! From the text of a rule to the rule.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::{Action, Direction, Ports, Rule, Target, Transport};
use crate::policy::name::{HOST_NAME, Name, NameError, NamePattern};
use crate::{PEER_DOMAIN, Protocol};

/// Bytes of a rule's text that an error repeats, at most.
const MAX_QUOTED_CHARACTERS: usize = 80;

/// Why a text is not a rule, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?}, column {column}: {problem}")]
pub struct RuleError {
    /// The text, cut to a printable length.
    pub rule: String,
    /// Where the problem begins, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub problem: RuleProblem,
}

/// What is wrong with the text of a rule, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// The first word is another.
    #[error("a rule starts with `allow` or `deny`, such as `allow example.com`")]
    Action,
    /// There is no second word.
    #[error("a target is missing: a name, an address or a network, such as `10.0.0.0/8`")]
    NoTarget,
    /// There is a third word.
    #[error("a rule ends with its target; write ports and protocol as `example.com:443/tcp`")]
    TrailingText,
    /// The target is not a name.
    #[error("not a name: {0}")]
    Name(NameError),
    /// `*` elsewhere than in front.
    #[error("a wildcard stands alone, or for the first labels of a name: `*.example.com`")]
    WildcardPlace,
    /// Strangers share the names.
    #[error("everybody can register names there; write the domain you mean: `*.example.{suffix}`")]
    WildcardTooWide {
        /// The domain below which all names would be allowed.
        suffix: Name,
    },
    /// The target looks like an address or a network, and is none.
    #[error("not an address or network; write `192.0.2.1`, `192.0.2.0/24` or `2001:db8::/32`")]
    Address,
    /// The network's address has bits that its length leaves out.
    #[error("the address has bits outside its network; write `{network}`, or the address alone")]
    HostBits {
        /// The network that the address is in.
        network: IpNet,
    },
    /// A `[` without its `]`, or other than an IPv6 address in them.
    #[error("brackets hold an IPv6 address or network, such as `[2001:db8::/32]:443`")]
    Brackets,
    /// Not a number, 0, or more than 65535.
    #[error("a port is a number from 1 to 65535; write `:443`, `:80,443` or `:6000-6100`")]
    Port,
    /// A range of ports that ends before it begins.
    #[error("the range ends before it begins; write `{last}-{first}`")]
    PortRange {
        /// The port before the `-`.
        first: u16,
        /// The port after it.
        last: u16,
    },
    /// The word after the last `/` is none of the protocols.
    #[error("a protocol is `tcp`, `udp`, `icmp` or `any`")]
    Protocol,
    /// Ports together with ICMP.
    #[error("ICMP has no ports; leave them out")]
    PortsOfIcmp,
    /// The host's loopback without ports.
    #[error("name the ports of the host that may be reached, such as `{HOST_NAME}:8080`")]
    HostWithoutPorts,
    /// A rule about peers that denies nothing, or `from` somebody who cannot be one.
    #[error(
        "members of its networks are allowed as such; write `deny db.{PEER_DOMAIN}:5432` to keep \
         it from one, and `deny from db:5432` to keep one from it"
    )]
    Peer,
}

/// A problem, and the part of the text it is about.
type Failure<'a> = (&'a str, RuleProblem);

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        rule(text).map_err(|(part, problem)| RuleError {
            rule: text.chars().take(MAX_QUOTED_CHARACTERS).collect(),
            column: column(text, part),
            problem,
        })
    }
}

/// Returns the column at which the part, which is a slice of the text, begins.
fn column(text: &str, part: &str) -> usize {
    let offset = part.as_ptr().addr() - text.as_ptr().addr();
    1 + text
        .char_indices()
        .take_while(|&(index, _)| index < offset)
        .count()
}

fn rule(text: &str) -> Result<Rule, Failure<'_>> {
    let (word, rest) = first_word(text);
    let action = if word.eq_ignore_ascii_case("allow") {
        Action::Allow
    } else if word.eq_ignore_ascii_case("deny") {
        Action::Deny
    } else {
        return Err((word, RuleProblem::Action));
    };
    let (mut body, mut rest) = first_word(rest);
    let mut direction = Direction::To;
    let from = body;
    if from.eq_ignore_ascii_case("from") {
        direction = Direction::From;
        (body, rest) = first_word(rest);
    }
    if body.is_empty() {
        return Err((body, RuleProblem::NoTarget));
    }
    if !rest.trim_start().is_empty() {
        return Err((rest.trim_start(), RuleProblem::TrailingText));
    }
    let (body, transport) = split_protocol(body)?;
    let (target, ports) = split_ports(body);
    let rule = Rule {
        action,
        direction,
        target: parse_target(target, action)?,
        ports: ports.map(parse_ports).transpose()?.unwrap_or_default(),
        transport: transport.unwrap_or(action.default_transport()),
    };
    if let Some(ports) = ports
        && rule.transport == Transport::Only(Protocol::Icmp)
    {
        return Err((ports, RuleProblem::PortsOfIcmp));
    }
    match (action, direction) {
        (Action::Allow, Direction::From) => return Err((from, RuleProblem::Peer)),
        (Action::Allow, Direction::To) if rule.is_about_peers() => {
            return Err((target, RuleProblem::Peer));
        }
        (Action::Deny, Direction::From) if !rule.has_peers() => {
            return Err((target, RuleProblem::Peer));
        }
        _ => {}
    }
    if action == Action::Allow && rule.is_about_host() && rule.ports.is_all() {
        return Err((target, RuleProblem::HostWithoutPorts));
    }
    Ok(rule)
}

/// Splits off the first word and the space before it.
fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()))
}

/// Splits off the protocol, which is what follows the last `/` unless that is the length of a
/// network.
fn split_protocol(body: &str) -> Result<(&str, Option<Transport>), Failure<'_>> {
    let Some((before, word)) = body.rsplit_once('/') else {
        return Ok((body, None));
    };
    let is_length = word.starts_with(|first: char| first.is_ascii_digit());
    if is_length || word.contains([']', ':']) {
        return Ok((body, None));
    }
    let transport = match word.to_ascii_lowercase().as_str() {
        "tcp" => Transport::Only(Protocol::Tcp),
        "udp" => Transport::Only(Protocol::Udp),
        "icmp" => Transport::Only(Protocol::Icmp),
        "any" => Transport::Any,
        _ => return Err((word, RuleProblem::Protocol)),
    };
    Ok((before, Some(transport)))
}

/// Splits off the ports. A bare IPv6 address has no ports: all its colons are its own.
fn split_ports(body: &str) -> (&str, Option<&str>) {
    if body.starts_with('[') {
        return match body.split_once("]:") {
            Some((_, ports)) => (
                body.strip_suffix(ports).map_or(body, without_colon),
                Some(ports),
            ),
            None => (body, None),
        };
    }
    match body.split_once(':') {
        Some((target, ports)) if !ports.contains(':') => (target, Some(ports)),
        _ => (body, None),
    }
}

fn without_colon(text: &str) -> &str {
    text.strip_suffix(':').unwrap_or(text)
}

fn parse_target(text: &str, action: Action) -> Result<Target, Failure<'_>> {
    if text.is_empty() {
        return Err((text, RuleProblem::NoTarget));
    }
    if text.starts_with('[') {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .ok_or((text, RuleProblem::Brackets))?;
        return match parse_network(inner) {
            Ok(network @ IpNet::V6(_)) => Ok(Target::Network(network)),
            Ok(IpNet::V4(_)) | Err((_, RuleProblem::Address)) => Err((text, RuleProblem::Brackets)),
            Err(failure) => Err(failure),
        };
    }
    if text.contains('/') || text.contains(':') {
        return parse_network(text).map(Target::Network);
    }
    match parse_pattern(text, action) {
        Ok(pattern) => Ok(Target::Name(pattern)),
        Err((_, RuleProblem::Name(NameError::Address))) => parse_network(text).map(Target::Network),
        Err(failure) => Err(failure),
    }
}

fn parse_network(text: &str) -> Result<IpNet, Failure<'_>> {
    let failure = (text, RuleProblem::Address);
    let Some((address, _)) = text.split_once('/') else {
        let address: IpAddr = text.parse().map_err(|_| failure)?;
        return Ok(network_of(IpNet::from(address)));
    };
    let network: IpNet = text.parse().map_err(|_| failure)?;
    if network != network.trunc() {
        let network = network.trunc();
        return Err((address, RuleProblem::HostBits { network }));
    }
    Ok(network_of(network))
}

/// Returns an IPv4-mapped network as the IPv4 network it means (RFC 4291 §2.5.5.2).
fn network_of(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let mapped = match network {
        IpNet::V6(network) => network
            .addr()
            .to_ipv4_mapped()
            .zip(network.prefix_len().checked_sub(MAPPED_BITS)),
        IpNet::V4(_) => None,
    };
    mapped
        .and_then(|(address, length)| IpNet::new(address.into(), length).ok())
        .unwrap_or(network)
}

fn parse_pattern(text: &str, action: Action) -> Result<NamePattern, Failure<'_>> {
    if text == "*" {
        return Ok(NamePattern::Any);
    }
    let domain = text.strip_prefix("*.");
    let name = domain.unwrap_or(text);
    if let Some(star) = name.find('*') {
        let star = name.get(star..).unwrap_or(name);
        return Err((star, RuleProblem::WildcardPlace));
    }
    let parsed: Name = name
        .parse()
        .map_err(|error| (name, RuleProblem::Name(error)))?;
    if domain.is_none() {
        return Ok(NamePattern::Exact(parsed));
    }
    let pattern = NamePattern::Below(parsed.clone());
    // To deny a whole suffix is no abuse.
    if action == Action::Allow && pattern.is_below_public_suffix() {
        return Err((text, RuleProblem::WildcardTooWide { suffix: parsed }));
    }
    Ok(pattern)
}

fn parse_ports(text: &str) -> Result<Ports, Failure<'_>> {
    text.split(',')
        .map(parse_range)
        .collect::<Result<_, _>>()
        .map(Ports)
}

fn parse_range(text: &str) -> Result<(u16, u16), Failure<'_>> {
    let Some((first, last)) = text.split_once('-') else {
        return parse_port(text).map(|port| (port, port));
    };
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    if first > last {
        return Err((text, RuleProblem::PortRange { first, last }));
    }
    Ok((first, last))
}

fn parse_port(text: &str) -> Result<u16, Failure<'_>> {
    // A sign, which `parse` would take, is no part of a port.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if is_number && port != 0 => Ok(port),
        _ => Err((text, RuleProblem::Port)),
    }
}
