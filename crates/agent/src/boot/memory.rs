//! What the guest's kernel does when memory is short.
//!
//! Without swap the kernel drops pages of programs and reads them again from the disk. A guest that
//! has a little too little memory can do so for minutes, in which nothing else gets anywhere, before
//! its out-of-memory killer is called. The multi-generational LRU can be told to call it as soon as
//! the pages of the last moments do not fit any more (kernel,
//! Documentation/admin-guide/mm/multigen_lru.rst, "Thrashing prevention").

use std::fs;

/// Switches the multi-generational LRU on, with all of its components.
const ENABLED: (&str, &str) = ("/sys/kernel/mm/lru_gen/enabled", "y");

/// How long a page that was used stays in memory, in milliseconds; the kernel's documentation gives
/// this value for what people use.
const MIN_TTL_MS: (&str, &str) = ("/sys/kernel/mm/lru_gen/min_ttl_ms", "1000");

/// Has the kernel end the largest program rather than let the guest stand still.
pub(crate) fn prevent_thrashing() {
    for (file, value) in [ENABLED, MIN_TTL_MS] {
        // A kernel older than 6.1 has neither, and kills later.
        let _absent = fs::write(file, value);
    }
}
