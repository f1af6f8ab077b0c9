//! What a guest finds in its memory and its processors when it starts.
//!
//! ```text
//!   layout     what lies where
//!   kernel     the kernel and the initial file system, from files into memory
//!   acpi       tables that tell the kernel of processors and devices
//!   start      how the kernel is entered: PVH (ELF) or the 64-bit boot protocol (bzImage)
//! ```

pub(crate) mod acpi;
pub(crate) mod kernel;
pub(crate) mod layout;
pub(crate) mod start;
