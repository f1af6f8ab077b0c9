//! The kinds of failure that callers act on.

/// Kind of an error of this crate: what went wrong, from the caller's point of view.
///
/// Exit codes of the command line, HTTP statuses and Python classes are chosen by kind, so that a
/// caller can rely on them without knowing each error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A value the caller gave is not legal.
    InvalidInput,
    /// What the caller named does not exist.
    NotFound,
    /// The sandbox is in the wrong state, or the name is taken.
    Conflict,
    /// This host or this build cannot do it.
    Unsupported,
    /// A policy or a permission denies it.
    Denied,
    /// It took too long.
    Timeout,
    /// The guest failed: its kernel, its agent, or what it was asked to run.
    GuestFailed,
    /// The host failed: a file, a process, a lack of space.
    Host,
    /// SmolVM itself is wrong.
    Bug,
}

impl ErrorKind {
    /// Returns the stable name of the kind, as machine-readable output spells it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::GuestFailed => "guest_failed",
            Self::Host => "host",
            Self::Bug => "bug",
        }
    }
}
