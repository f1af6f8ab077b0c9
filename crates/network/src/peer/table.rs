//! Which address stands for which peer.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Peer, PeerName};

/// The addresses of one gateway's peers. Each is given once, in the order in which peers turn up,
/// and stands for the same peer as long as the gateway lives: what a guest remembers is never
/// another one's. Only sandboxes of this host get one, so no guest can use them up by itself.
#[derive(Debug)]
pub(super) struct PeerTable {
    range: Ipv4Net,
    /// In the order of their addresses.
    peers: Vec<Peer>,
    places: HashMap<PeerName, usize>,
}

impl PeerTable {
    pub(super) fn new(range: Ipv4Net) -> Self {
        Self {
            range,
            peers: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// Returns the address that stands for `peer`, which gets one if one is left.
    pub(super) fn address_of(&mut self, peer: &Peer) -> Option<Ipv4Addr> {
        let place = match self.places.get(&peer.name) {
            Some(&place) => {
                // Made anew, it may share another network.
                self.peers[place].network.clone_from(&peer.network);
                place
            }
            None => self.peers.len(),
        };
        let address = self.range.hosts().nth(place)?;
        if place == self.peers.len() {
            self.peers.push(peer.clone());
            self.places.insert(peer.name.clone(), place);
        }
        Some(address)
    }

    /// Returns the peer that `address` stands for.
    pub(super) fn at(&self, address: Ipv4Addr) -> Option<&Peer> {
        let first = self.range.hosts().next()?;
        let place = address.to_bits().checked_sub(first.to_bits())?;
        self.peers.get(usize::try_from(place).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> PeerTable {
        PeerTable::new("172.16.64.0/30".parse().expect("a network"))
    }

    fn peer(name: &str) -> Peer {
        Peer {
            name: PeerName::new(name).expect("a label"),
            network: "team".into(),
        }
    }

    #[test]
    fn peer_keeps_its_address_and_no_other_gets_it() {
        let mut table = table();
        let db = table.address_of(&peer("db")).expect("an address");
        let web = table.address_of(&peer("web")).expect("another");
        assert_eq!(db, Ipv4Addr::new(172, 16, 64, 1));
        assert_eq!(web, Ipv4Addr::new(172, 16, 64, 2));
        assert_eq!(table.address_of(&peer("db")), Some(db));
        assert_eq!(table.at(db), Some(&peer("db")));
        assert_eq!(table.at(web), Some(&peer("web")));
    }

    #[test]
    fn address_that_was_not_given_stands_for_nobody() {
        let mut table = table();
        let given = table.address_of(&peer("db")).expect("an address");
        for other in ["172.16.64.0", "172.16.64.2", "172.16.63.255", "8.8.8.8"] {
            assert_eq!(
                table.at(other.parse().expect("an address")),
                None,
                "{other}"
            );
        }
        assert!(table.at(given).is_some());
    }

    #[test]
    fn table_is_as_large_as_its_range() {
        let mut table = table();
        assert!(table.address_of(&peer("a")).is_some());
        assert!(table.address_of(&peer("b")).is_some());
        assert_eq!(table.address_of(&peer("c")), None);
        assert_eq!(
            table.address_of(&peer("a")),
            Some(Ipv4Addr::new(172, 16, 64, 1))
        );
    }
}
