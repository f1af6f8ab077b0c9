//! The guest's memory: how it is laid out, mapped, read and written.
//!
//! ```text
//!   GPA 0 ── low memory ── up to 3 GiB │ device registers │ 4 GiB ── high memory ──
//! ```
//!
//! All of it is private to this process, in huge pages where the host has them: a guest that boots
//! touches most pages of its kernel once, and each page that is missing then is an exit. (Memory
//! files have huge pages only where an administrator has said so.) Everything outside this module
//! touches it through `vm-memory`, which copies: nobody holds a reference into what a guest may
//! change at any time.
//!
//! One of the places of this crate where `unsafe` is allowed. Its rule: pointers into guest memory
//! are given to the kernel only, for the duration of one system call, with lengths that
//! `vm-memory` has checked.

mod ram;
mod transfer;

pub(crate) use ram::{GuestRam, MemoryError, discard};
pub(crate) use transfer::{read_file_at, receive, send, write_file_at};

/// Guest memory as devices use it.
pub(crate) type Memory = vm_memory::GuestMemoryMmap;
