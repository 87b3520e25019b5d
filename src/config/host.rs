//! Host names: valid and lower-case by construction, and the table that finds the site of one.

use hashbrown::HashMap;

use crate::request::parse_authority;

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
        if text == "_" {
            return Err("\"_\" is no host: for all that no other site has, write \"*\"".to_owned());
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
/// An exact name wins over a wildcard, a longer wildcard over a shorter one, `*` comes last. The names are the operator's, so
/// that a quick hash will do.
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
