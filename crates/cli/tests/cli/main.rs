//! The real binary, end to end, on the engine `fake`: a scripted guest whose commands are `true`,
//! `false`, `echo`, `cat`, `sleep` and `crash`.
//!
//! [`home::Home`] is the fixture: a private home for sandboxes, which asserts when it is dropped
//! that no process, socket or directory is left in it.

mod deaths;
mod doctor;
mod documents;
mod failures;
mod help;
mod home;
mod kernels;
mod life;
mod logs;
mod network;
mod programs;
mod secrets;
mod terminal;
