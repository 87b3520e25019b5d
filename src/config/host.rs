//! Host names: valid and lower-case by construction, and the table that finds the site of one.

use std::borrow::Cow;
use std::collections::HashMap;

/// The longest host name of DNS (RFC 1035 section 2.3.4), with room for an IPv6 literal.
const MAX_HOST: usize = 255;

/// Splits an authority into host and port and checks both. The host comes back lower-case, without a
/// final dot and without the port. `None` means that it is not a valid authority.
///
/// RFC 9112 section 3.2: a server must refuse a `Host` with an invalid value.
pub(crate) fn parse_authority(authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..end + 2], &rest[end + 1..])
        }
        None => {
            let end = memchr::memchr(b':', authority.as_bytes()).unwrap_or(authority.len());
            let host = &authority[..end];
            if !is_reg_name(host) {
                return None;
            }
            (host.strip_suffix('.').unwrap_or(host), &authority[end..])
        }
    };
    if host.is_empty() || host.len() > MAX_HOST {
        return None;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    let host = match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    };
    Some((host, port))
}

/// Letters, digits, `-`, `_` and dots between non-empty labels: what host names on the Web consist of.
/// Percent-encoding and sub-delims, which RFC 3986 would allow, name no host and are refused.
fn is_reg_name(host: &str) -> bool {
    // Byte by byte: each request's host goes through here.
    let mut label_is_empty = true;
    for byte in host.strip_suffix('.').unwrap_or(host).bytes() {
        match byte {
            b'.' if label_is_empty => return false,
            b'.' => label_is_empty = true,
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') => label_is_empty = false,
            _ => return false,
        }
    }
    !label_is_empty
}

/// `shop.example.com`, `*.shop.example.com`, or `*` for every host that no site names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// The part after `*.`; matches any number of labels before it, but not the part itself.
    Below(String),
    Any,
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostPattern::Exact(host) => f.write_str(host),
            HostPattern::Below(name) => write!(f, "*.{name}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

impl std::str::FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("{text:?} is not a host name: expected \"shop.example.com\", \"*.shop.example.com\" or \"*\"");
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (wildcard, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        match parse_authority(name).ok_or_else(expected)? {
            (_, Some(_)) => Err(format!("{text:?} has a port where none is expected")),
            (host, None) if wildcard => Ok(HostPattern::Below(host.into_owned())),
            (host, None) => Ok(HostPattern::Exact(host.into_owned())),
        }
    }
}

/// Finds what belongs to a host in constant time per label, however many sites there are.
/// An exact name wins over a wildcard, a longer wildcard over a shorter one, `*` comes last.
#[derive(Debug, Clone, Default)]
pub struct HostMap<T> {
    exact: HashMap<String, T>,
    below: HashMap<String, T>,
    any: Option<T>,
}

impl<T: Copy> HostMap<T> {
    /// Adds a pattern; gives back what already had it.
    pub fn insert(&mut self, pattern: HostPattern, target: T) -> Option<T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.insert(name, target),
            HostPattern::Below(name) => self.below.insert(name, target),
            HostPattern::Any => self.any.replace(target),
        }
    }

    /// All patterns, with what they lead to.
    pub fn patterns(&self) -> impl Iterator<Item = (HostPattern, T)> {
        let exact = self.exact.iter().map(|(name, target)| (HostPattern::Exact(name.clone()), *target));
        let below = self.below.iter().map(|(name, target)| (HostPattern::Below(name.clone()), *target));
        exact.chain(below).chain(self.any.map(|target| (HostPattern::Any, target)))
    }

    /// What a pattern itself leads to.
    pub fn of_pattern(&self, pattern: &HostPattern) -> Option<T> {
        match pattern {
            HostPattern::Exact(host) => self.find(host),
            HostPattern::Below(name) => self.find(&format!("x.{name}")),
            HostPattern::Any => self.any,
        }
    }

    /// Looks up a host that [`parse_authority`] gave.
    pub fn find(&self, host: &str) -> Option<T> {
        if let Some(target) = self.exact.get(host) {
            return Some(*target);
        }
        if !self.below.is_empty() {
            let mut rest = host;
            while let Some(dot) = rest.find('.') {
                rest = &rest[dot + 1..];
                if let Some(target) = self.below.get(rest) {
                    return Some(*target);
                }
            }
        }
        self.any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for (text, expected) in [
            ("example.com", Some(("example.com", None))),
            ("Example.COM:8443", Some(("example.com", Some(8443)))),
            ("example.com.", Some(("example.com", None))),
            ("example.com:", Some(("example.com", None))),
            ("[::1]:80", Some(("[::1]", Some(80)))),
            ("a_b-c.example", Some(("a_b-c.example", None))),
            ("", None),
            (":80", None),
            (".", None),
            ("a..b", None),
            ("a b", None),
            ("a/b", None),
            ("user@host", None),
            ("a,b", None),
            ("%65xample.com", None),
            ("example.com:99999", None),
            ("example.com:8x", None),
            ("example.com:+80", None),
            ("[::1", None),
            ("[zz]", None),
            ("[::1]x", None),
        ] {
            let parsed = parse_authority(text);
            assert_eq!(parsed.as_ref().map(|(host, port)| (host.as_ref(), *port)), expected, "{text}");
        }
    }

    #[test]
    fn the_most_specific_host_wins() {
        let mut map = HostMap::default();
        for (i, pattern) in ["shop.example.com", "*.shop.example.com", "*.example.com", "*"].iter().enumerate() {
            assert_eq!(map.insert(pattern.parse().unwrap(), i), None);
        }
        for (host, site) in [
            ("shop.example.com", Some(0)),
            ("a.shop.example.com", Some(1)),
            ("a.b.shop.example.com", Some(1)),
            ("www.example.com", Some(2)),
            ("example.com", Some(3)),
            ("com", Some(3)),
        ] {
            assert_eq!(map.find(host), site, "{host}");
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        for text in ["", "*.", "a.*.b", "shop.example.com:80", "http://a", "**"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
