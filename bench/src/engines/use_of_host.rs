//! What a VMM takes of the host: its memory, and what KVM counts.

use std::error::Error;
use std::fs;
use std::io;

/// Where KVM counts, a directory for each virtual machine, named by process and descriptor (kernel,
/// virt/kvm/kvm_main.c, `kvm_create_vm_debugfs`).
const COUNTERS: &str = "/sys/kernel/debug/kvm";

/// What is told of it: file and name (kernel, arch/x86/kvm/x86.c, `kvm_vcpu_stats_desc`).
const TOLD: [(&str, &str); 7] = [
    ("exits", "exits"),
    ("io_exits", "exits for ports"),
    ("mmio_exits", "exits for registers"),
    ("halt_exits", "exits for nothing to do"),
    ("irq_exits", "exits for the host's interrupts"),
    ("pf_taken", "exits for missing pages"),
    ("pf_mmio_spte_created", "pages of registers met"),
];

/// A counter's name and how far it has come.
pub(super) type Counter = (&'static str, u64);

/// Memory of a VMM that is resident.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VmmMemory {
    /// What is the guest's.
    pub(super) guest_mib: f64,
    /// What is not.
    pub(super) own_mib: f64,
}

/// Returns the memory of the VMM `pid` whose guest has so much.
pub(super) fn memory(pid: u32, guest_mib: u32) -> Result<VmmMemory, Box<dyn Error>> {
    Ok(parse_smaps(
        &fs::read_to_string(format!("/proc/{pid}/smaps"))?,
        guest_mib,
    ))
}

/// Reads what proc(5) says of `/proc/pid/smaps`. A mapping of half the guest's memory is the guest's:
/// engines map it in one piece, and nothing else is that large.
fn parse_smaps(smaps: &str, guest_mib: u32) -> VmmMemory {
    let half_kib = f64::from(guest_mib) * 1024.0 / 2.0;
    let mut memory = VmmMemory::default();
    let mut is_guest = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let value = |word: Option<&str>| word.and_then(|word| word.parse::<f64>().ok());
        match words.next() {
            Some("Size:") => is_guest = value(words.next()).is_some_and(|kib| kib >= half_kib),
            Some("Rss:") => {
                let mib = value(words.next()).unwrap_or_default() / 1024.0;
                if is_guest {
                    memory.guest_mib += mib;
                } else {
                    memory.own_mib += mib;
                }
            }
            _ => {}
        }
    }
    memory
}

/// Returns what KVM has counted for the virtual machine of the process `pid`; `None` where the host
/// does not tell.
pub(super) fn exits(pid: u32) -> Result<Option<Vec<Counter>>, Box<dyn Error>> {
    let machines = match fs::read_dir(COUNTERS) {
        Ok(machines) => machines,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let prefix = format!("{pid}-");
    let mut machines = machines.flatten();
    let Some(machine) =
        machines.find(|machine| machine.file_name().to_string_lossy().starts_with(&prefix))
    else {
        return Ok(None);
    };
    let mut counters = Vec::new();
    for (file, name) in TOLD {
        // Kernels differ in what they count.
        if let Ok(count) = fs::read_to_string(machine.path().join(file)) {
            counters.push((name, count.trim().parse()?));
        }
    }
    Ok(Some(counters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_mappings_are_the_guests() {
        let smaps = "7f00-7f20 rw-p 00000000 00:00 0\n\
                     Size:             524288 kB\nRss:              102400 kB\n\
                     7f30-7f31 r-xp 00000000 08:01 12 /usr/lib/libc.so.6\n\
                     Size:               2048 kB\nRss:                1024 kB\n\
                     7f32-7f33 rw-p 00000000 00:00 0\n\
                     Size:               2048 kB\nRss:                 512 kB\n";
        let memory = parse_smaps(smaps, 512);
        assert_eq!([memory.guest_mib, memory.own_mib], [100.0, 1.5]);
    }
}
