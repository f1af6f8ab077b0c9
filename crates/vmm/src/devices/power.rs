//! The registers to sleep and to reset, which the ACPI tables name (ACPI 6.5 §4.8.3.7 and §4.8.3.6).

use crate::boot::acpi::{RESET_VALUE, SLEEP_TYPE_OFF};
use crate::boot::layout::{RESET_PORT, SLEEP_CONTROL_PORT};

/// Sleep control register, bit 5: enter the sleep state now.
const SLEEP_ENABLE: u8 = 1 << 5;

/// Sleep control register, bits 4 to 2: which sleep state.
const SLEEP_TYPE_SHIFT: u8 = 2;

/// See [`SLEEP_TYPE_SHIFT`].
const SLEEP_TYPE_MASK: u8 = 0b111;

/// The keyboard controller's command port, and its command to reset the processor: how a kernel
/// resets a PC when nothing else works (Linux 6.12, arch/x86/kernel/reboot.c, `BOOT_KBD`).
const KEYBOARD_COMMAND_PORT: u16 = 0x64;

/// See [`KEYBOARD_COMMAND_PORT`].
const KEYBOARD_RESET: u8 = 0xfe;

/// What the guest wants of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PowerRequest {
    /// To be off.
    Off,
    /// To start again.
    Reset,
}

/// Returns what the guest wants of the machine when it writes `value` to `port`.
pub(crate) const fn requested(port: u16, value: u8) -> Option<PowerRequest> {
    let off = SLEEP_ENABLE | SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT;
    let relevant = SLEEP_ENABLE | SLEEP_TYPE_MASK << SLEEP_TYPE_SHIFT;
    match (port, value) {
        (SLEEP_CONTROL_PORT, value) if value & relevant == off => Some(PowerRequest::Off),
        (RESET_PORT, RESET_VALUE) | (KEYBOARD_COMMAND_PORT, KEYBOARD_RESET) => {
            Some(PowerRequest::Reset)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_is_off_when_type_and_enable_bit_are_written_together() {
        assert_eq!(requested(SLEEP_CONTROL_PORT, 0x34), Some(PowerRequest::Off));
        for value in [0x14, 0x20, 0x30] {
            assert_eq!(requested(SLEEP_CONTROL_PORT, value), None);
        }
    }

    #[test]
    fn guest_that_resets_names_the_register_or_the_old_controller() {
        assert_eq!(requested(RESET_PORT, 1), Some(PowerRequest::Reset));
        assert_eq!(requested(0x64, 0xfe), Some(PowerRequest::Reset));
        assert_eq!(requested(0x64, 0xf0), None);
    }
}
