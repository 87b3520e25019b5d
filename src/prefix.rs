//! What clients that are next to each other have in common.

use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 network of 256 addresses, or an IPv6 site (/48).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(u128);

impl Prefix {
    /// What tells it from others.
    pub(crate) fn to_bits(self) -> u128 {
        self.0
    }

    pub fn of(address: IpAddr) -> Self {
        Prefix(match address.to_canonical() {
            IpAddr::V4(address) => u128::from(address.to_bits() >> 8),
            IpAddr::V6(address) => address.to_bits() >> 80 | 1 << 64, // apart from those of IPv4
        })
    }
}

/// The address that stands for one client: whoever has an IPv6 address has the /64 that it is in.
pub(crate) fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}
