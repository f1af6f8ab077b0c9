//! Who the guest is, where it was recorded and started from there: others started from the same
//! recording have the same memory and the same disk, and must not stay the same for that.
//!
//! Random numbers come first: a name that cannot be set must not leave two guests with the same keys.

use std::io;

use smolvm_protocol::message::{Identity, SEED_BYTES};

use crate::boot::hostname;
use crate::sys::random;

/// Why the guest is not who it is to be. The message carries its cause: it is for the host's eyes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("the seed has {0} bytes, and not {SEED_BYTES}")]
    Seed(usize),
    #[error("the kernel does not make its random numbers anew: {0}")]
    Reseed(io::Error),
    #[error("the host name cannot be set: {0}")]
    Hostname(io::Error),
}

/// Makes the guest who `identity` says. Blocks.
pub(crate) fn assume(identity: &Identity) -> Result<(), IdentityError> {
    if identity.seed.len() != SEED_BYTES {
        return Err(IdentityError::Seed(identity.seed.len()));
    }
    random::reseed(&identity.seed).map_err(IdentityError::Reseed)?;
    hostname::change(&identity.hostname).map_err(IdentityError::Hostname)
}
