//! The only resolver that a guest has: a forwarder that judges what is asked and what is answered.
//!
//! ```text
//!   guest's bytes --> Question --> Decider.query() --no--> REFUSED
//!                                     | yes
//!                                     v
//!               smolvm.internal, peers: answered here      others: asked upstream
//!                                                               | answer
//!                                                               v
//!                     records of the question only, addresses that Decider.answer() lets through,
//!                     time to live within bounds --> Pins (address -> name) --> guest
//! ```
//!
//! What is refused gets REFUSED, also when every address of an answer was withheld: that says
//! nothing about the name, and nobody caches it, so a rule that is added has its effect at once.
//! An extended error (RFC 8914) says why, and by which rule, to whom understands it.
//!
//! Nothing that the guest sent goes upstream but the question itself and its DNSSEC flags: no
//! client subnet, cookie or identifier. Nothing of an answer reaches the guest but records of the
//! question's type and the aliases (CNAME) that lead to them.
//!
//! A name may be an alias of another; rules are about the name that was asked for. Whoever owns an
//! allowed name decides where it leads, as with its addresses.

mod answer;
mod pins;
mod question;
mod resolver;
#[cfg(test)]
mod tests;
mod upstream;
mod wire;

pub use answer::DnsTransport;
pub use pins::Pins;
pub use resolver::{Resolver, ResolverConfig};
pub use upstream::UpstreamConfig;
