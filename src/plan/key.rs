//! The cache key: site, version, host, path and query, in one string whose order makes purging by URL and
//! by prefix a comparison of strings.

use std::borrow::Borrow;
use std::sync::Arc;

use crate::config::model::{KeyRules, QueryRule};
use crate::request::{RequestView, Scheme};

/// Separates the parts. No part can have it: names are checked, hosts and targets are visible ASCII.
const SEPARATOR: char = '\u{1f}';

/// `site SEP version[@condition][+tls][:port] SEP host/path?query`, and for a slice of an object `SEP size/number`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(Arc<str>);

/// A cache key that somebody else keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a>(&'a str);

impl CacheKey {
    /// Writes the key into a buffer that the caller reuses, so that looking up allocates nothing.
    /// `port`: where it counts; `condition`: of the route, if it has one.
    pub fn write(
        buffer: &mut String,
        (site, version): (&str, u64),
        port: Option<u16>,
        condition: Option<&str>,
        rules: &KeyRules,
        request: &RequestView<'_>,
    ) {
        buffer.clear();
        push_prefix(buffer, (site, version), condition, request.scheme == Scheme::Https, port);
        push_uri(buffer, rules, request.host, request.path, request.query);
    }

    /// Writes the key of a URI as [`push_uri`] wrote it, likewise.
    pub fn write_of_uri(
        buffer: &mut String,
        site: (&str, u64),
        condition: Option<&str>,
        tls: bool,
        port: Option<u16>,
        uri: &str,
    ) {
        buffer.clear();
        push_prefix(buffer, site, condition, tls, port);
        buffer.push_str(uri);
    }

    /// The key of a slice of what has this key.
    pub fn slice(of: &str, size: u64, number: u64) -> Self {
        CacheKey(format!("{of}{SEPARATOR}{size}/{number}").into())
    }

    /// An owned key of what [`CacheKey::write`] wrote.
    pub fn from_written(written: &str) -> Self {
        CacheKey(written.into())
    }

    pub fn view(&self) -> Key<'_> {
        Key(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tables find it by its text: both have one hash.
impl Borrow<str> for CacheKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'a> Key<'a> {
    /// A view of what [`CacheKey::write`] wrote.
    pub fn of_written(written: &'a str) -> Self {
        Key(written)
    }

    pub fn to_owned(self) -> CacheKey {
        CacheKey(self.0.into())
    }

    pub fn site(self) -> &'a str {
        self.parts().0
    }

    /// `host/path?query`: what URL purges compare.
    pub fn uri(self) -> &'a str {
        self.parts().2
    }

    /// Path and query: what is asked of the origin, so that what is keyed and what is sent cannot differ.
    pub fn path_and_query(self) -> &'a str {
        let uri = self.uri();
        uri.find('/').map_or("/", |at| &uri[at..])
    }

    /// The two of them apart.
    pub fn path(self) -> &'a str {
        self.path_and_query().split('?').next().unwrap_or_default()
    }

    pub fn query(self) -> Option<&'a str> {
        self.path_and_query().split_once('?').map(|(_, query)| query)
    }

    /// Whose it is in the sense of RFC 9110 section 4.3.1: TLS or not, the host, and the port where it counts.
    pub fn origin(self) -> KeyOrigin<'a> {
        let (_, version, uri) = self.parts();
        let (version, port) = version.split_once(':').map_or((version, None), |(version, port)| (version, Some(port)));
        let host = uri.split('/').next().unwrap_or_default();
        KeyOrigin { tls: version.ends_with("+tls"), host, port: port.and_then(|port| port.parse().ok()) }
    }

    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Site, version with what goes with it, URI.
    fn parts(self) -> (&'a str, &'a str, &'a str) {
        let mut parts = self.0.split(SEPARATOR);
        let mut part = || parts.next().unwrap_or_default();
        (part(), part(), part())
    }
}

/// Whose a stored response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyOrigin<'a> {
    pub tls: bool,
    pub host: &'a str,
    pub port: Option<u16>,
}

fn push_prefix(
    buffer: &mut String,
    (site, version): (&str, u64),
    condition: Option<&str>,
    tls: bool,
    port: Option<u16>,
) {
    buffer.push_str(site);
    buffer.push(SEPARATOR);
    let mut digits = itoa::Buffer::new();
    buffer.push_str(digits.format(version));
    // What one route's pool answers is nothing to the requests of another. URL purges hit both.
    if let Some(condition) = condition {
        buffer.push('@');
        buffer.push_str(condition);
    }
    // Origins see the scheme and answer by it, with redirects above all. URL purges hit both.
    if tls {
        buffer.push_str("+tls");
    }
    // Redirects go to the port that was asked for. It is no part of the URI, so that purges hit all of them.
    if let Some(port) = port {
        buffer.push(':');
        buffer.push_str(digits.format(port));
    }
    buffer.push(SEPARATOR);
}

/// Appends `host/path?query` as keys have it under these rules.
pub(crate) fn push_uri(buffer: &mut String, rules: &KeyRules, host: &str, path: &str, query: Option<&str>) {
    buffer.push_str(host);
    if rules.ignore_path_case {
        buffer.extend(path.chars().map(|c| c.to_ascii_lowercase()));
    } else {
        buffer.push_str(path);
    }
    match query {
        None => {}
        Some(query) if rules.query == QueryRule::All && !rules.sort_query => {
            buffer.push('?');
            buffer.push_str(query);
        }
        Some(query) => push_parameters(buffer, rules, query),
    }
}

fn name(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or_default()
}

/// Appends the parameters that count, in their order or in that of their names; those of one name stay as they
/// are, since their order may mean something.
fn push_parameters(buffer: &mut String, rules: &KeyRules, query: &str) {
    let counts = |parameter: &str| match &rules.query {
        QueryRule::All => true,
        QueryRule::Without(patterns) => !patterns.iter().any(|pattern| pattern.matches(name(parameter))),
        QueryRule::Only(patterns) => patterns.iter().any(|pattern| pattern.matches(name(parameter))),
    };
    let mut parameters: Vec<&str> =
        query.split('&').filter(|parameter| !parameter.is_empty() && counts(parameter)).collect();
    if rules.sort_query {
        parameters.sort_by_key(|parameter| name(parameter));
    }
    for (index, parameter) in parameters.into_iter().enumerate() {
        buffer.push(if index == 0 { '?' } else { '&' });
        buffer.push_str(parameter);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::plan::tests::view;

    #[test]
    fn a_key_has_all_its_parts() {
        let headers = HeaderMap::new();
        let mut request = view(&Method::GET, "shop.example", "/a", &headers);
        request.query = Some("b=1");
        let mut buffer = String::from("left over");
        CacheKey::write(&mut buffer, ("shop", 7), None, None, &KeyRules::default(), &request);
        let key = CacheKey::from_written(&buffer);
        assert_eq!((key.view().site(), key.view().uri()), ("shop", "shop.example/a?b=1"));
        let origin = KeyOrigin { tls: false, host: "shop.example", port: None };
        assert_eq!(key.view().origin(), origin);
        request.scheme = Scheme::Https;
        let mut tls = String::new();
        CacheKey::write(&mut tls, ("shop", 7), Some(8443), Some("c0ffee"), &KeyRules::default(), &request);
        assert_eq!(Key(&tls).origin(), KeyOrigin { tls: true, port: Some(8443), ..origin });
        assert_eq!((Key(&tls).site(), Key(&tls).uri()), ("shop", "shop.example/a?b=1"));
        assert_eq!(key.as_str(), "shop\u{1f}7\u{1f}shop.example/a?b=1");
    }

    #[test]
    fn urls_are_normalised_by_the_routes_rules() {
        let patterns = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let without = |names| KeyRules { query: QueryRule::Without(patterns(names)), ..KeyRules::default() };
        let only = |names| KeyRules { query: QueryRule::Only(patterns(names)), ..KeyRules::default() };
        let sorted = KeyRules { sort_query: true, ..KeyRules::default() };
        let any_case = KeyRules { ignore_path_case: true, ..KeyRules::default() };
        for (rules, query, expected) in [
            (&KeyRules::default(), Some("b=1&&a"), "h/A?b=1&&a"),
            (&KeyRules::default(), Some(""), "h/A?"),
            (&KeyRules::default(), None, "h/A"),
            (&without(&["utm_*", "fbclid"]), Some("utm_source=x&a=1&fbclid=2&utm=3"), "h/A?a=1&utm=3"),
            (&without(&["utm_*"]), Some("utm_source=x"), "h/A"),
            (&without(&["utm_*"]), Some(""), "h/A"),
            (&without(&["utm_*"]), None, "h/A"),
            (&without(&["a"]), Some("a&a=&b&ab=1"), "h/A?b&ab=1"),
            (&only(&["page", "q"]), Some("x=1&q=2&page=3&Page=4"), "h/A?q=2&page=3"),
            (&only(&[]), Some("x=1"), "h/A"),
            (&sorted, Some("b=2&a=1&b=1&&a"), "h/A?a=1&a&b=2&b=1"),
            (&any_case, Some("A=B"), "h/a?A=B"),
        ] {
            let mut uri = String::new();
            push_uri(&mut uri, rules, "h", "/A", query);
            assert_eq!(uri, expected, "{rules:?} {query:?}");
            let key = CacheKey::from_written(&format!("s{SEPARATOR}1{SEPARATOR}{uri}"));
            assert_eq!(format!("h{}", key.view().path_and_query()), uri);
        }
    }
}
