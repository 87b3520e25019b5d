//! One of the addresses that an origin's name stands for, or the one that it has. Each has a health of its own: one of them may be dead, as IPv6 is on
//! many hosts, or one of many machines behind one name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

use super::record::Record;

/// Where an origin listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Inet(SocketAddr),
    Unix(Arc<Path>),
}

impl Place {
    /// The IP address, if it has one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Place::Inet(address) => Some(address.ip()),
            Place::Unix(_) => None,
        }
    }

    /// As pingora has it.
    pub(super) fn for_pingora(&self) -> pingora_core::protocols::l4::socket::SocketAddr {
        use pingora_core::protocols::l4::socket::SocketAddr::{Inet, Unix};
        match self {
            Place::Inet(address) => Inet(*address),
            // The configuration was refused if it is too long; there is nobody at the other one.
            Place::Unix(path) => std::os::unix::net::SocketAddr::from_pathname(path)
                .map_or(Inet(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))), Unix),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Inet(address) => address.fmt(f),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl serde::Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An address and what is known of it.
#[derive(Debug)]
pub(crate) struct Address {
    pub place: Place,
    /// As its health checks have it.
    up: AtomicBool,
    /// Connections for requests that failed, with none that was made in between.
    failed_connections: AtomicU32,
    checks: Mutex<Checks>,
    /// What requests have come to.
    pub(super) record: Record,
}

/// Health checks of one result in a row.
#[derive(Debug, Default)]
struct Checks {
    successes: u32,
    failures: u32,
}

impl Address {
    pub(super) fn new(place: Place) -> Arc<Self> {
        Arc::new(Address {
            place,
            up: AtomicBool::new(true),
            failed_connections: AtomicU32::new(0),
            checks: Mutex::default(),
            record: Record::default(),
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether requests are sent to it.
    pub(super) fn is_usable(&self) -> bool {
        self.is_up() && !self.record.is_ejected()
    }

    /// A connection for a request was made.
    pub(super) fn connected(&self) {
        if self.failed_connections.load(Ordering::Relaxed) != 0 {
            self.failed_connections.store(0, Ordering::Relaxed);
        }
    }

    /// A connection for a request could not be made; `fall` of them in a row take it down.
    pub(super) fn connection_failed(&self, fall: u32) {
        let before = self.failed_connections.fetch_add(1, Ordering::Relaxed);
        if before.saturating_add(1) >= fall && self.is_up() {
            self.checks.lock().successes = 0;
            self.up.store(false, Ordering::Relaxed);
        }
    }

    /// A health check went well, or not: `rise` of the one in a row bring it up, `fall` of the other take it down.
    pub(super) fn checked(&self, is_well: bool, rise: u32, fall: u32) {
        let mut checks = self.checks.lock();
        let up = if is_well {
            *checks = Checks { successes: checks.successes.saturating_add(1), failures: 0 };
            self.failed_connections.store(0, Ordering::Relaxed);
            self.is_up() || checks.successes >= rise
        } else {
            *checks = Checks { successes: 0, failures: checks.failures.saturating_add(1) };
            self.is_up() && checks.failures < fall
        };
        self.up.store(up, Ordering::Relaxed);
    }

    /// Whether its last checks say something else than what is taken for true.
    pub(super) fn is_undecided(&self) -> bool {
        let checks = self.checks.lock();
        if self.is_up() { checks.failures > 0 } else { checks.successes > 0 }
    }

    /// Brings it up without asking.
    pub(super) fn assume_up(&self) {
        *self.checks.lock() = Checks::default();
        self.failed_connections.store(0, Ordering::Relaxed);
        self.up.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Arc<Address> {
        Address::new(Place::Inet("127.0.0.1:1".parse().unwrap()))
    }

    #[test]
    fn health_changes_after_rise_or_fall_in_a_row() {
        let address = address();
        for (is_well, up) in [
            (false, true),
            (false, true),
            (true, true),
            (false, true),
            (false, true),
            (false, false),
            (false, false),
            (true, false),
            (false, false),
            (true, false),
            (true, true),
        ] {
            address.checked(is_well, 2, 3);
            assert_eq!((address.is_up(), address.is_undecided()), (up, is_well != up));
        }
    }

    #[test]
    fn failed_connections_count_in_a_row_only() {
        let address = address();
        let refused = || {
            address.connection_failed(3);
            address.is_up()
        };
        assert_eq!([refused(), refused()], [true, true]);
        address.connected();
        assert_eq!([refused(), refused()], [true, true]);
        address.checked(true, 2, 3);
        assert_eq!([refused(), refused(), refused()], [true, true, false]);
        (0..2).for_each(|_| address.checked(true, 2, 3));
        assert_eq!([refused(), refused()], [true, true], "it begins anew");
    }
}
