//! The only place of this crate with `unsafe`: what no safe interface offers.
//!
//! * [`spawn`]: a child process in its own session and cgroup, from one `clone3`.
//! * [`random`]: the kernel's generator of random numbers.
//! * [`signals`]: signals by number, which may be real-time signals.
//! * [`watch`]: descriptors that the runtime waits for.
//!
//! Rules: each block states its preconditions; nothing here allocates between `clone3` and
//! `execve` in the child; every descriptor is an `OwnedFd` or borrowed from one.

pub(crate) mod random;
pub(crate) mod signals;
pub(crate) mod spawn;
pub(crate) mod watch;
