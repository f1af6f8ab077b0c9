//! What a sandbox may reach.
//!
//! ```text
//!   NetworkPolicy = Mode + [Rule]          as people write it: text, JSON, the command line
//!        | compiled once for each change
//!        v
//!   Decider <-- PolicyHandle.current()     shared by the parts of the gateway
//!     .query(name)                         may the guest ask for this name?
//!     .answer(address, own)                may a DNS answer tell it this address?
//!     .connection(destination, own)        may it connect there? perhaps: see what name it shows
//!     .shown(destination, name)            may the connection go on with this name?
//!     .to_peer(destination, network)       may it connect to this peer?
//!     .from_peer(names, port, network)     may this peer connect to it?
//! ```
//!
//! # What wins
//!
//! 1. Mode `off` denies everything.
//! 2. A `deny` rule that matches denies, wherever it stands in the list.
//! 3. A built-in protection ([`Protection`]) denies, in every mode, unless an `allow` rule *about
//!    that protection* matches: its target is an address or a network within the protected range.
//!    So `allow 10.0.0.0/8` opens the private network, but `allow 0.0.0.0/0` only what is public;
//!    `allow 169.254.169.254` opens the metadata service, but `allow 169.254.0.0/16` does not.
//!    Names open no protection, whatever they resolve to. The one exception is [`HOST_NAME`].
//! 4. An `allow` rule that matches allows.
//! 5. The mode decides: `open` allows, `restricted` denies.
//!
//! The order of rules has no meaning, except that of several rules that decide alike the first is
//! the one that a [`Verdict`](crate::Verdict) names; of networks, the first of the narrowest.
//!
//! # What a name means
//!
//! A rule about a name matches a destination when *this sandbox* resolved the name to the address,
//! through the gateway's resolver, and the answer is still valid ([`Pins`](crate::Pins)). One
//! address can serve many names. So where the protocol then shows a name (the SNI of TLS, the
//! `Host` of HTTP), that name decides as well. What that means, case by case:
//!
//! | The guest | `restricted` | `open` |
//! | --- | --- | --- |
//! | shows an allowed name, resolved to this address | allowed | allowed |
//! | shows an allowed name that was never resolved to this address | denied | allowed |
//! | shows a name that no rule allows | denied | allowed |
//! | shows a name that a rule denies | denied | denied |
//! | shows no name (none in the hello, or an encrypted one) | denied | allowed |
//! | connects to an address that it did not resolve | denied | allowed |
//! | asks another resolver (DNS over TLS, HTTPS or QUIC) | as any connection | allowed |
//! | connects to what another resolver told it | denied | allowed |
//! | sends UDP under a rule about a name (QUIC hides its name) | only by `/udp` or `/any` | allowed |
//!
//! An `allow` rule about the address makes it allowed in all cases but that of a denied name.
//!
//! # Peers
//!
//! To be in a network with somebody is to allow each other, whatever the mode but `off`. So of the
//! above only 1 and 2 hold for peers: a `deny` rule about a peer's name, its address here, or `*`
//! keeps the guest from it, and one with `from` keeps it from the guest. The names that a peer's
//! protocols show do not matter; its address is nobody else's.

mod addresses;
mod decider;
mod handle;
mod legacy;
mod name;
mod network_policy;
mod protection;
mod rule;
mod text;

pub use decider::{Decider, Decision, Destination};
pub use handle::PolicyHandle;
pub use legacy::{SettingsError, from_internet_settings};
pub use name::{GATEWAY_NAME, HOST_NAME, Name, NameError, NamePattern, RESERVED_DOMAIN};
pub use network_policy::{Mode, NetworkPolicy, PolicyError};
pub use protection::Protection;
pub use rule::{Action, Direction, Ports, Rule, RuleError, RuleProblem, Target, Transport};
pub use text::PolicyTextError;
