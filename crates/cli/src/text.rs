//! Words for people: error chains, sizes, durations, ages, and text that came from a guest.

use std::error::Error;
use std::time::Duration;

/// Returns an error and its causes on one line. A cause whose text its effect already says is
/// left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// Returns a size as people read it, such as `1.5 GiB`.
#[expect(
    clippy::cast_precision_loss,
    reason = "one decimal place is shown, of numbers far below 2^53"
)]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Returns the time of day of a moment, in UTC, such as `12:34:56.789`.
pub(crate) fn time_of_day(unix_ms: u64) -> String {
    let (seconds, milliseconds) = (unix_ms / 1000, unix_ms % 1000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}.{milliseconds:03}",
        seconds % 60
    )
}

/// Returns a duration as people read it, such as `1.85 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=9 => format!("{:.2} s", duration.as_secs_f64()),
        10..=119 => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// Returns how long ago something was, such as `3 minutes ago`.
pub(crate) fn age(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (number, unit) = match seconds {
        0..=59 => (seconds, "second"),
        60..=3_599 => (seconds / 60, "minute"),
        3_600..=86_399 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

/// Returns `bytes` without the control characters that could make a terminal do something.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|character| !character.is_control() || matches!(character, '\n' | '\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_keeps_them_short() {
        let shown = [0, 1023, 1024, 1_572_864, 2 << 30, (1 << 30) - 1].map(size);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "2.0 GiB", "1.0 GiB"]
        );
    }

    #[test]
    fn ages_have_one_unit() {
        let shown = [0, 1, 59, 60, 7_199, 86_400, 200_000].map(|s| age(Duration::from_secs(s)));
        assert_eq!(
            shown,
            [
                "0 seconds ago",
                "1 second ago",
                "59 seconds ago",
                "1 minute ago",
                "1 hour ago",
                "1 day ago",
                "2 days ago"
            ]
        );
    }

    #[test]
    fn escape_sequences_of_a_guest_lose_their_escape() {
        assert_eq!(printable(b"\x1b]0;title\x07ok\r\n"), "]0;titleok\n");
    }
}
