//! Ranges of addresses.

use std::net::IpAddr;

/// An address as text, an IPv4-mapped IPv6 address as its IPv4 address. Written for each request: the formatter takes
/// five times as long.
pub(crate) fn text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address.to_canonical() else { return address.to_string() };
    let mut text = String::with_capacity(15);
    for (at, part) in address.octets().into_iter().enumerate() {
        text.push_str(if at == 0 { "" } else { "." });
        text.push_str(itoa::Buffer::new().format(part));
    }
    text
}

/// A range of addresses, `10.0.0.0/8` or a single `192.0.2.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    prefix: u8,
}

impl IpRange {
    /// Whether an address lies in the range. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let address = address.to_canonical();
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        self.address.is_ipv4() == address.is_ipv4() && (bits(self.address) ^ bits(address)) & mask == 0
    }
}

impl std::str::FromStr for IpRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not an address range such as \"10.0.0.0/8\" or \"::1\"");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = match prefix {
            Some(prefix) => {
                let is_number = matches!(prefix.len(), 1..=3) && prefix.bytes().all(|byte| byte.is_ascii_digit());
                prefix.parse().ok().filter(|prefix| is_number && *prefix <= longest).ok_or_else(expected)?
            }
            None => longest,
        };
        // Clients that are mapped count as what they are, so a range of such is one of IPv4.
        match (address.to_canonical(), prefix.checked_sub(96)) {
            (v4 @ IpAddr::V4(_), Some(prefix)) if address.is_ipv6() => Ok(IpRange { address: v4, prefix }),
            (IpAddr::V4(_), None) if address.is_ipv6() => Err(format!("{text:?}: write it as a range of IPv4")),
            _ => Ok(IpRange { address, prefix }),
        }
    }
}

/// Any number of ranges: whether one of them has an address takes as many steps as their number has binary digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    v4: Box<[Span]>,
    v6: Box<[Span]>,
}

/// The first and the last address of a range, as numbers.
type Span = (u128, u128);

impl Ranges {
    pub fn new(ranges: impl IntoIterator<Item = IpRange>) -> Self {
        let (v4, v6): (Vec<IpRange>, Vec<IpRange>) = ranges.into_iter().partition(|range| range.address.is_ipv4());
        Ranges { v4: merged(&v4), v6: merged(&v6) }
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether every address of these lies in one of the ranges.
    pub fn cover(&self, others: &Ranges) -> bool {
        let covers = |spans: &[Span], others: &[Span]| {
            others.iter().all(|(first, last)| span_with(spans, *first).is_some_and(|span| *last <= span.1))
        };
        covers(&self.v4, &others.v4) && covers(&self.v6, &others.v6)
    }

    /// Whether an address lies in one of the ranges. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (spans, address) = match address.to_canonical() {
            IpAddr::V4(address) => (&self.v4, address.to_bits().into()),
            IpAddr::V6(address) => (&self.v6, address.to_bits()),
        };
        span_with(spans, address).is_some()
    }
}

/// Which of some spans in their order has an address.
fn span_with(spans: &[Span], address: u128) -> Option<&Span> {
    let after = spans.partition_point(|(first, _)| *first <= address);
    spans[..after].last().filter(|(_, last)| address <= *last)
}

/// Ranges of one family in their order; none touches another.
fn merged(ranges: &[IpRange]) -> Box<[Span]> {
    let span = |range: &IpRange| {
        let (address, bits): (u128, u32) = match range.address {
            IpAddr::V4(address) => (address.to_bits().into(), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let rest = u128::MAX.checked_shr(128 - bits + u32::from(range.prefix)).unwrap_or(0);
        (address & !rest, address & !rest | rest)
    };
    let mut spans: Vec<Span> = ranges.iter().map(span).collect();
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for (first, last) in spans {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_formatter_writes_them() {
        for address in ["192.0.2.7", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(text(address), address.to_string());
        }
        assert_eq!(text("::ffff:192.0.2.7".parse().unwrap()), "192.0.2.7");
    }

    #[test]
    fn address_ranges() {
        for (range, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("::ffff:10.0.0.1", "10.0.0.2", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let range: IpRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{range:?} {address}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/x",
            "10.0.0.0/0008",
            "10.0.0.0/+8",
            "::ffff:10.0.0.0/80",
        ] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn many_ranges_have_what_one_of_them_has() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let all: Vec<IpRange> = (0..random.usize(0..20))
                .map(|_| match random.bool() {
                    true => format!("10.{}.{}.0/{}", random.u8(0..4), random.u8(0..4), random.u8(8..33)),
                    false => format!("2001:db8::{:x}/{}", random.u8(0..64), random.u8(96..129)),
                })
                .map(|text| text.parse().unwrap())
                .collect();
            let ranges = Ranges::new(all.iter().copied());
            for _ in 0..100 {
                let address: IpAddr = match random.u8(0..3) {
                    0 => format!("10.{}.{}.{}", random.u8(0..5), random.u8(0..5), random.u8(..)).parse().unwrap(),
                    1 => format!("2001:db8::{:x}", random.u8(0..80)).parse().unwrap(),
                    _ => format!("::ffff:10.{}.{}.1", random.u8(0..5), random.u8(0..5)).parse().unwrap(),
                };
                let expected = all.iter().any(|range| range.contains(address));
                assert_eq!(ranges.contains(address), expected, "{address} {all:?}");
            }
        }
        let all = Ranges::new(["::/0".parse().unwrap()]);
        assert!(all.contains("2001:db8::1".parse().unwrap()) && !all.contains("10.0.0.1".parse().unwrap()));
    }
}
