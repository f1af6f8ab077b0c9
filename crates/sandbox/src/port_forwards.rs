//! Ports that a sandbox exposes whenever it runs: legal by construction.

use smolvm_protocol::control::Forward;

use serde::{Deserialize, Serialize};

use crate::ErrorKind;

/// Names of the one address of the host on which ports are exposed.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

/// A forward as it is asked for, before anybody has looked at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedForward {
    /// Address of the host to listen on.
    pub host_address: String,
    /// Port of the host.
    pub host_port: u64,
    /// Port of the guest.
    pub guest_port: u64,
}

/// Why ports cannot be exposed as asked. The index counts what was asked for, from 0.
#[derive(Debug, thiserror::Error)]
pub enum PortForwardError {
    /// It is no port.
    #[error("{port} is not a port: use 1 to 65535")]
    OutOfRange {
        /// Which of those asked for.
        index: usize,
        /// The field that holds it.
        field: &'static str,
        /// The number given.
        port: u64,
    },
    /// The port is in an earlier one.
    #[error("port {port} is there twice")]
    Repeated {
        /// Which of those asked for.
        index: usize,
        /// The field that holds it.
        field: &'static str,
        /// The port.
        port: u16,
    },
    /// It asks for another address than the loopback's.
    #[error("{address:?} is not 127.0.0.1; ports are exposed on the loopback address only")]
    Address {
        /// Which of those asked for.
        index: usize,
        /// The address as given, cut to a printable length.
        address: String,
    },
    /// There are too many.
    #[error(
        "{count} ports are too many; a sandbox exposes {} at most",
        PortForwards::MAX
    )]
    TooMany {
        /// How many were asked for.
        count: usize,
    },
}

impl PortForwardError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    /// Returns which of those asked for is wrong, and its field.
    #[must_use]
    pub const fn place(&self) -> Option<(usize, &'static str)> {
        match self {
            Self::OutOfRange { index, field, .. } | Self::Repeated { index, field, .. } => {
                Some((*index, field))
            }
            Self::Address { index, .. } => Some((*index, "host_address")),
            Self::TooMany { .. } => None,
        }
    }
}

/// Ports of the guest on the host's loopback: no port of either side is there twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Forward>", into = "Vec<Forward>")]
pub struct PortForwards(Vec<Forward>);

impl PortForwards {
    /// Most ports that one sandbox exposes: far below how many operations it has.
    pub const MAX: usize = 64;

    /// Returns what was asked for, when all of it can be.
    ///
    /// # Errors
    ///
    /// When a port is none or is there twice, an address is not the loopback's, or there are too
    /// many.
    pub fn new(asked: &[AskedForward]) -> Result<Self, PortForwardError> {
        if asked.len() > Self::MAX {
            let count = asked.len();
            return Err(PortForwardError::TooMany { count });
        }
        let mut forwards = Self::default();
        for (index, one) in asked.iter().enumerate() {
            if !LOOPBACK.contains(&one.host_address.as_str()) {
                let address = one.host_address.chars().take(80).collect();
                return Err(PortForwardError::Address { index, address });
            }
            forwards.add(index, one.host_port, one.guest_port)?;
        }
        Ok(forwards)
    }

    fn add(
        &mut self,
        index: usize,
        host_port: u64,
        guest_port: u64,
    ) -> Result<(), PortForwardError> {
        let forward = Forward {
            host_port: port(index, "host_port", host_port)?,
            guest_port: port(index, "guest_port", guest_port)?,
        };
        let repeated = |field, port| PortForwardError::Repeated { index, field, port };
        for other in &self.0 {
            if other.host_port == forward.host_port {
                return Err(repeated("host_port", forward.host_port));
            }
            if other.guest_port == forward.guest_port {
                return Err(repeated("guest_port", forward.guest_port));
            }
        }
        self.0.push(forward);
        Ok(())
    }

    /// Returns the forwards.
    #[must_use]
    pub fn as_slice(&self) -> &[Forward] {
        &self.0
    }
}

impl TryFrom<Vec<Forward>> for PortForwards {
    type Error = PortForwardError;

    fn try_from(forwards: Vec<Forward>) -> Result<Self, PortForwardError> {
        let asked: Vec<AskedForward> = forwards.iter().map(AskedForward::from).collect();
        Self::new(&asked)
    }
}

impl From<PortForwards> for Vec<Forward> {
    fn from(forwards: PortForwards) -> Self {
        forwards.0
    }
}

impl From<&Forward> for AskedForward {
    fn from(forward: &Forward) -> Self {
        Self {
            host_address: LOOPBACK[0].to_owned(),
            host_port: forward.host_port.into(),
            guest_port: forward.guest_port.into(),
        }
    }
}

fn port(index: usize, field: &'static str, number: u64) -> Result<u16, PortForwardError> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(PortForwardError::OutOfRange {
            index,
            field,
            port: number,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwards(ports: &[(u16, u16)]) -> Result<PortForwards, PortForwardError> {
        let forward = |&(host_port, guest_port)| Forward {
            host_port,
            guest_port,
        };
        PortForwards::try_from(ports.iter().map(forward).collect::<Vec<_>>())
    }

    #[test]
    fn illegal_port_is_found_by_its_place() {
        for (ports, place) in [
            (&[(1, 2), (0, 3)][..], (1, "host_port")),
            (&[(1, 0)], (0, "guest_port")),
            (&[(1, 2), (1, 3)], (1, "host_port")),
            (&[(1, 2), (3, 2)], (1, "guest_port")),
        ] {
            let error = forwards(ports).expect_err("illegal");
            assert_eq!(error.place(), Some(place), "{ports:?}");
        }
    }

    #[test]
    fn port_beyond_sixteen_bits_is_not_cut_to_them() {
        let asked = AskedForward {
            host_address: "127.0.0.1".to_owned(),
            host_port: 65_536 + 80,
            guest_port: 80,
        };
        let error = PortForwards::new(&[asked]).expect_err("illegal");
        assert_eq!(error.to_string(), "65616 is not a port: use 1 to 65535");
    }

    #[test]
    fn address_that_others_reach_is_refused() {
        let asked = AskedForward {
            host_address: "0.0.0.0".to_owned(),
            host_port: 80,
            guest_port: 80,
        };
        let error = PortForwards::new(&[asked]).expect_err("illegal");
        assert_eq!(error.place(), Some((0, "host_address")));
    }

    #[test]
    fn saved_forwards_are_looked_at_again() {
        let legal = forwards(&[(8080, 80), (2222, 22)]).expect("legal");
        let saved = serde_json::to_string(&legal).expect("saved");
        assert_eq!(
            serde_json::from_str::<PortForwards>(&saved).expect("read"),
            legal
        );
        let forged = saved.replace("2222", "8080");
        assert!(serde_json::from_str::<PortForwards>(&forged).is_err());
    }

    #[test]
    fn more_than_a_sandbox_has_are_refused() {
        let ports: Vec<(u16, u16)> = (1..).map(|port| (port, port)).take(65).collect();
        assert!(forwards(&ports[..64]).is_ok());
        assert!(forwards(&ports).is_err());
    }
}
