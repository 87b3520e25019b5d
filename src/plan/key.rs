//! The cache key: site, version, host, path and query, in one string whose order makes purging by URL and
//! by prefix a comparison of strings.

use std::borrow::Borrow;
use std::sync::Arc;

use crate::request::{RequestView, Scheme};

/// Separates the parts. No part can have it: names are checked, hosts and targets are visible ASCII.
const SEPARATOR: char = '\u{1f}';

/// `site SEP version SEP host/path?query`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(Arc<str>);

impl CacheKey {
    /// Writes the key into a buffer that the caller reuses, so that looking up allocates nothing.
    pub fn write(buffer: &mut String, site: &str, version: u64, request: &RequestView<'_>) {
        let tls = request.scheme == Scheme::Https;
        Self::write_parts(buffer, site, version, tls, (request.host, request.path, request.query));
    }

    /// The same for a URI that no request is at hand for: host, path and query.
    pub fn write_parts(buffer: &mut String, site: &str, version: u64, tls: bool, uri: (&str, &str, Option<&str>)) {
        use std::fmt::Write;
        buffer.clear();
        buffer.push_str(site);
        buffer.push(SEPARATOR);
        let _ = write!(buffer, "{version}"); // writing to a String cannot fail
        // Origins see the scheme and answer by it, with redirects above all. URL purges hit both.
        if tls {
            buffer.push_str("+tls");
        }
        buffer.push(SEPARATOR);
        push_uri(buffer, uri.0, uri.1, uri.2);
    }

    /// An owned key of what [`CacheKey::write`] wrote.
    pub fn from_written(written: &str) -> Self {
        CacheKey(written.into())
    }

    pub fn site(&self) -> &str {
        self.parts().0
    }

    /// `host/path?query`: what URL purges compare.
    pub fn uri(&self) -> &str {
        self.parts().1
    }

    /// Whose it is in the sense of RFC 9110 section 4.3.1, as far as a key tells: TLS or not, and the host.
    pub fn origin(&self) -> (bool, &str) {
        let mut parts = self.0.splitn(3, SEPARATOR).skip(1);
        let tls = parts.next().is_some_and(|version| version.ends_with("+tls"));
        let uri = parts.next().unwrap_or_default();
        (tls, uri.split('/').next().unwrap_or_default())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> (&str, &str) {
        let mut parts = self.0.splitn(3, SEPARATOR);
        let site = parts.next().unwrap_or_default();
        let uri = parts.nth(1).unwrap_or_default();
        (site, uri)
    }
}

impl Borrow<str> for CacheKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Appends `host/path?query` as keys have it.
pub fn push_uri(buffer: &mut String, host: &str, path: &str, query: Option<&str>) {
    buffer.push_str(host);
    buffer.push_str(path);
    if let Some(query) = query {
        buffer.push('?');
        buffer.push_str(query);
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
        CacheKey::write(&mut buffer, "shop", 7, &request);
        let key = CacheKey::from_written(&buffer);
        assert_eq!((key.site(), key.uri()), ("shop", "shop.example/a?b=1"));
        assert_eq!(key.origin(), (false, "shop.example"));
        request.scheme = Scheme::Https;
        let mut tls = String::new();
        CacheKey::write(&mut tls, "shop", 7, &request);
        assert_eq!(CacheKey::from_written(&tls).origin(), (true, "shop.example"));
        assert_eq!(key.as_str(), "shop\u{1f}7\u{1f}shop.example/a?b=1");
    }

    #[test]
    fn an_empty_query_is_not_no_query() {
        let headers = HeaderMap::new();
        let mut request = view(&Method::GET, "h", "/a", &headers);
        let mut without = String::new();
        CacheKey::write(&mut without, "s", 1, &request);
        request.query = Some("");
        let mut with = String::new();
        CacheKey::write(&mut with, "s", 1, &request);
        assert_ne!(with, without);
    }
}
