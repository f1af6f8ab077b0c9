//! Which names a sandbox resolved to which addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::Name;

/// Pins that are kept, at most; about a megabyte when all names are as long as they can be.
const MAX_PINS: usize = 4096;

/// Names of one address, at most: each costs time at every connection to it.
const MAX_NAMES_OF_ADDRESS: usize = 64;

/// Part of the pins that make room when there are too many: one in this many.
const MAKE_ROOM: usize = 8;

/// The pins of a sandbox, shared by its resolver, which makes them, and the gateway, which asks.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    // Held for a look-up only, and no other lock is taken meanwhile.
    table: Arc<Mutex<PinTable>>,
}

impl Pins {
    /// Returns the names that were resolved to an address and are still valid.
    #[must_use]
    pub fn names_of(&self, address: IpAddr, now: Instant) -> Vec<Name> {
        self.table().names_of(address, now)
    }

    /// Notes that a name was resolved to an address, until when it is valid, and what time it is.
    pub fn pin(&self, address: IpAddr, name: &Name, until: Instant, now: Instant) {
        self.table().pin(address, name, until, now);
    }

    fn table(&self) -> MutexGuard<'_, PinTable> {
        // The table is whole between any two of its statements that could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct PinTable {
    by_address: HashMap<IpAddr, Vec<Pin>>,
    count: usize,
}

#[derive(Debug)]
struct Pin {
    name: Name,
    until: Instant,
}

impl PinTable {
    fn names_of(&self, address: IpAddr, now: Instant) -> Vec<Name> {
        self.by_address
            .get(&address.to_canonical())
            .into_iter()
            .flatten()
            .filter(|pin| pin.until > now)
            .map(|pin| pin.name.clone())
            .collect()
    }

    fn pin(&mut self, address: IpAddr, name: &Name, until: Instant, now: Instant) {
        if self.count >= MAX_PINS {
            self.make_room(now);
        }
        let pins = self.by_address.entry(address.to_canonical()).or_default();
        if let Some(pin) = pins.iter_mut().find(|pin| pin.name == *name) {
            pin.until = pin.until.max(until);
            return;
        }
        let pin = Pin {
            name: name.clone(),
            until,
        };
        if pins.len() < MAX_NAMES_OF_ADDRESS {
            pins.push(pin);
            self.count += 1;
        } else if let Some(first) = pins.iter_mut().min_by_key(|pin| pin.until) {
            *first = pin;
        }
    }

    /// Drops what is no longer valid, or else the eighth that ends first: so the work for each pin
    /// stays small however many the guest causes.
    fn make_room(&mut self, now: Instant) {
        self.retain(|pin| pin.until > now);
        if self.count < MAX_PINS {
            return;
        }
        let mut ends: Vec<Instant> = self
            .by_address
            .values()
            .flatten()
            .map(|pin| pin.until)
            .collect();
        let (_, &mut last, _) = ends.select_nth_unstable(MAX_PINS / MAKE_ROOM);
        self.retain(|pin| pin.until > last);
    }

    fn retain(&mut self, keeps: impl Fn(&Pin) -> bool) {
        self.by_address.retain(|_, pins| {
            pins.retain(&keeps);
            !pins.is_empty()
        });
        self.count = self.by_address.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: usize) -> IpAddr {
        let number = u32::try_from(number).expect("few addresses");
        Ipv4Addr::from_bits(0xcb00_7100 + number).into()
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    #[test]
    fn pin_ends_when_it_was_said_to() {
        let now = Instant::now();
        let pins = Pins::default();
        pins.pin(address(1), &name("a.example"), now + SECOND, now);
        assert_eq!(pins.names_of(address(1), now), [name("a.example")]);
        assert!(pins.names_of(address(1), now + SECOND).is_empty());
        assert!(pins.names_of(address(2), now).is_empty());
    }

    #[test]
    fn address_has_all_its_names_each_with_its_end() {
        let now = Instant::now();
        let pins = Pins::default();
        pins.pin(address(1), &name("a.example"), now + SECOND, now);
        pins.pin(address(1), &name("b.example"), now + SECOND * 3, now);
        assert_eq!(
            pins.names_of(address(1), now),
            [name("a.example"), name("b.example")]
        );
        assert_eq!(
            pins.names_of(address(1), now + SECOND * 2),
            [name("b.example")]
        );
    }

    #[test]
    fn answer_with_less_time_does_not_shorten_a_pin() {
        let now = Instant::now();
        let pins = Pins::default();
        pins.pin(address(1), &name("a.example"), now + SECOND * 3, now);
        pins.pin(address(1), &name("a.example"), now + SECOND, now);
        assert_eq!(
            pins.names_of(address(1), now + SECOND * 2),
            [name("a.example")]
        );
    }

    #[test]
    fn mapped_address_is_the_address_it_means() {
        let now = Instant::now();
        let pins = Pins::default();
        let mapped = "::ffff:203.0.113.1".parse().expect("an address");
        pins.pin(mapped, &name("a.example"), now + SECOND, now);
        assert_eq!(pins.names_of(address(1), now), [name("a.example")]);
        assert_eq!(pins.names_of(mapped, now), [name("a.example")]);
    }

    #[test]
    fn flood_drops_the_oldest_and_stays_bounded() {
        let now = Instant::now();
        let mut table = PinTable::default();
        let flood = MAX_PINS * 3;
        for number in 0..flood {
            let later = Duration::from_millis(u64::try_from(number).expect("small"));
            let until = now + SECOND * 60 + later;
            table.pin(address(number), &name("a.example"), until, now);
            assert!(table.count <= MAX_PINS);
        }
        assert!(table.names_of(address(0), now).is_empty());
        assert_eq!(table.names_of(address(flood - 1), now).len(), 1);
        assert_eq!(table.count, table.by_address.len());
    }

    #[test]
    fn flood_of_names_for_one_address_drops_its_oldest() {
        let now = Instant::now();
        let mut table = PinTable::default();
        for number in 0..MAX_NAMES_OF_ADDRESS * 2 {
            let later = Duration::from_millis(u64::try_from(number).expect("small"));
            let until = now + SECOND + later;
            table.pin(address(1), &name(&format!("n{number}.example")), until, now);
        }
        let names = table.names_of(address(1), now);
        assert_eq!(names.len(), MAX_NAMES_OF_ADDRESS);
        assert!(names.contains(&name("n127.example")));
        assert!(!names.contains(&name("n63.example")));
        assert_eq!(table.count, MAX_NAMES_OF_ADDRESS);
    }

    #[test]
    fn ended_pins_make_room_for_valid_ones() {
        let now = Instant::now();
        let mut table = PinTable::default();
        for number in 0..MAX_PINS {
            let seconds = if number == 0 { 60 } else { 1 };
            table.pin(
                address(number),
                &name("a.example"),
                now + SECOND * seconds,
                now,
            );
        }
        let later = now + SECOND * 2;
        table.pin(address(MAX_PINS), &name("a.example"), later + SECOND, later);
        assert_eq!(table.count, 2);
        assert_eq!(table.names_of(address(0), later).len(), 1);
    }
}
