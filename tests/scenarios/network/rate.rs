//! How fast a network may be.

use std::time::{Duration, Instant};

use smolvm_tests::lab::Lab;

/// What 16 megabits a second carry in four seconds.
const BYTES: u64 = 8_000_000;

/// Less than that, by the burst that the buckets allow and what the buffers on the way hold.
const AT_LEAST: Duration = Duration::from_secs(2);

#[test]
fn rate_holds_in_both_directions() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net=open", "--network-rate=16"]);
    for transfer in [
        format!("curl -sS http://web.lab.test/bytes/{BYTES} >/dev/null"),
        format!("head -c {BYTES} /dev/zero | curl -sS -T - http://web.lab.test/upload"),
    ] {
        let begun = Instant::now();
        let _transferred = guest.sh(&transfer).ok();
        let elapsed = begun.elapsed();
        assert!(elapsed >= AT_LEAST, "{transfer}: {elapsed:?}");
    }
}
