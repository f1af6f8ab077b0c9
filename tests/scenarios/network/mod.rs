//! The network of a sandbox, with real guests in an internet of the test's own
//! ([`smolvm_tests::lab`]). One module per theme; a guest boots once for the steps of a test.

mod attackers;
mod causes;
mod guest;
mod lab;
mod live;
mod log;
mod names;
mod open;
mod peers;
mod protections;
mod rate;
mod restricted;
