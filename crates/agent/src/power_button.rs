//! The power button: ACPI's, which the kernel's `button` module makes an input device of.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use futures::future::select_all;
use rustix::fs::OFlags;
use tokio::io::Interest;

use crate::sys::watch::watch;

/// `struct input_event` on 64-bit machines (linux/input.h): two 8-byte times, `u16` type,
/// `u16` code, `i32` value.
const EVENT_BYTES: usize = 24;

/// Numbers of linux/input-event-codes.h.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Waits until the power button is pressed. A guest without one waits for ever.
///
/// Preconditions: the modules that make the button an input device are loaded.
pub(crate) async fn pressed() {
    let mut waiting: Vec<_> = open_devices()
        .into_iter()
        .map(|device| Box::pin(reports_press(device)))
        .collect();
    while !waiting.is_empty() {
        let (was_pressed, _, rest) = select_all(waiting).await;
        if was_pressed {
            return;
        }
        waiting = rest;
    }
    std::future::pending().await
}

fn open_devices() -> Vec<File> {
    let Ok(entries) = fs::read_dir("/dev/input") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"event"))
        .filter_map(|entry| {
            OpenOptions::new()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(entry.path())
                .ok()
        })
        .collect()
}

/// Returns true when the device reports the power button, false when the device is gone.
async fn reports_press(device: File) -> bool {
    let Ok(device) = watch(device.into(), Interest::READABLE) else {
        return false;
    };
    let mut events = [0_u8; 16 * EVENT_BYTES];
    loop {
        let Ok(mut guard) = device.readable().await else {
            return false;
        };
        match guard.try_io(|device| Ok(rustix::io::read(device.get_ref(), &mut events)?)) {
            Ok(Ok(0)) => return false,
            Ok(Ok(count)) if has_power_press(&events[..count]) => return true,
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => return false,
        }
    }
}

fn has_power_press(events: &[u8]) -> bool {
    events.chunks_exact(EVENT_BYTES).any(|event| {
        let kind = u16::from_ne_bytes([event[16], event[17]]);
        let code = u16::from_ne_bytes([event[18], event[19]]);
        let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
        kind == EV_KEY && code == KEY_POWER && value == 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn press_is_found_after_other_events() {
        let events = [event(0, 0, 0), event(EV_KEY, KEY_POWER, 1)].concat();
        assert!(has_power_press(&events));
    }

    #[test]
    fn release_and_other_keys_are_no_press() {
        let events = [event(EV_KEY, KEY_POWER, 0), event(EV_KEY, 30, 1)].concat();
        assert!(!has_power_press(&events));
    }
}
