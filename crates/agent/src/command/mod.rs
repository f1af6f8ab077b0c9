//! What `exec` is made of.
//!
//! ```text
//!   request --plan--> SpawnPlan --start--> RunningCommand --supervise--> Exit
//!             users,             reaper,        input: the host's frames
//!             environment        cgroups        output: the command's pipes or terminal
//! ```
//!
//! * [`plan`]: from what was asked to what the kernel is told; `users` reads the guest's account
//!   files, `environment` makes the variables.
//! * [`start`]: descriptors, cgroup and process, with a guard that kills what is left behind.
//! * [`supervise`]: sees it through to its end; [`input`] and [`output`] are the two directions
//!   meanwhile.

pub(crate) mod environment;
pub(crate) mod input;
pub(crate) mod output;
pub(crate) mod plan;
pub(crate) mod start;
pub(crate) mod supervise;
pub(crate) mod users;
