//! The network of a sandbox, in user space: Ethernet frames of the guest come in, sockets of the
//! host go out, and a policy decides between the two.

#![forbid(unsafe_code)]

mod cause;
mod dns;
mod event;
mod event_log;
mod frame;
mod gateway;
mod http;
mod http_rules;
mod inspect;
mod intercept;
#[cfg(test)]
mod loopback;
mod peer;
mod policy;
mod secrets;
mod throttle;
mod verdict;

pub use cause::{AwaitedCause, Cause, CauseQuestion};
pub use dns::{DnsTransport, Pins, Resolver, ResolverConfig, UpstreamConfig};
pub use event::{Event, Protocol, Record};
pub use event_log::{EventLog, EventSink};
pub use gateway::{ContentConfig, Gateway, GatewayConfig, Incoming, Limits, LinkConfig, PeerDoor};
pub use http::{
    BoxStream, Dial, GuestConnection, HttpError, HttpProxy, RequestHead, RequestHost,
    RequestPolicy, Stream,
};
pub use http_rules::{HttpRule, HttpRuleError, HttpRuleProblem, HttpRules, PathProblem};
pub use inspect::{ClientHello, Inspector, Shown};
pub use intercept::{
    Authority, AuthorityError, InterceptError, Interceptor, RootsError, UpstreamTls,
    UpstreamTlsError,
};
pub use peer::{
    PEER_DOMAIN, PeerAnswer, PeerDirectory, PeerHello, PeerHelloError, PeerName, PeersConfig,
};
pub use policy::{
    Action, Decider, Decision, Destination, Direction, GATEWAY_NAME, HOST_NAME, Mode, Name,
    NameError, NamePattern, NetworkPolicy, PolicyError, PolicyHandle, PolicyTextError, Ports,
    Protection, RESERVED_DOMAIN, Rule, RuleError, RuleProblem, SettingsError, Target, Transport,
    from_internet_settings,
};
pub use secrets::{
    MAX_REWRITTEN_BODY_BYTES, PlaceholderScan, SecretError, SecretRefused, SecretSpec, Secrets,
};
pub use verdict::Verdict;
