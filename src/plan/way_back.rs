//! The names by which clients know the places that an origin names otherwise: it was asked for another path, or by another
//! host, than the client has asked for.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::model::Config;
use crate::request::{RequestView, parse_authority};

use super::Matched;

/// Fields of an answer that name places.
pub(crate) const FIELDS: [HeaderName; 3] = [header::LOCATION, header::CONTENT_LOCATION, header::SET_COOKIE];

/// From an origin's names to those of its route's clients.
pub(crate) struct WayBack<'a> {
    /// What the origin's paths begin with, and what clients' do.
    prefixes: Option<(&'a str, &'a str)>,
    /// The origin's name for the host.
    host: Option<&'a str>,
    request: &'a RequestView<'a>,
}

impl<'a> WayBack<'a> {
    /// `None`: both have the same names, or the route wants them left as they are.
    pub(crate) fn new(config: &'a Config, matched: Matched<'a>, request: &'a RequestView<'a>) -> Option<Self> {
        let rewrite = matched.route.rewrite.as_ref();
        if rewrite.is_some_and(|rewrite| rewrite.keeps_location) {
            return None;
        }
        let prefixes = rewrite.and_then(|rewrite| rewrite.way_back.as_ref()).map(|(own, public)| (&**own, &**public));
        let host = rewrite.and_then(|rewrite| rewrite.host.as_deref());
        let host = host.or(config.pool(matched.pool).host.as_deref());
        let host = host.filter(|host| !host.eq_ignore_ascii_case(request.authority));
        (prefixes.is_some() || host.is_some()).then_some(WayBack { prefixes, host, request })
    }

    /// Maps all fields that name places.
    pub(crate) fn map_all(&self, fields: &mut HeaderMap) {
        for name in &FIELDS {
            if let header::Entry::Occupied(mut values) = fields.entry(name) {
                for value in values.iter_mut() {
                    if let Some(mapped) = self.map(name, value.as_bytes()) {
                        *value = mapped;
                    }
                }
            }
        }
    }

    /// A value of one of [`FIELDS`] as clients are to have it; `None`: as it is.
    fn map(&self, name: &HeaderName, value: &[u8]) -> Option<HeaderValue> {
        let value = std::str::from_utf8(value).ok()?;
        let mapped = if *name == header::SET_COOKIE { self.cookie(value) } else { self.reference(value) };
        HeaderValue::try_from(mapped?).ok()
    }

    /// A URI reference (RFC 3986 section 4.1).
    fn reference(&self, value: &str) -> Option<String> {
        if value.starts_with('/') && !value.starts_with("//") {
            return self.path(value);
        }
        let (scheme, rest) = match value.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
                (Some(scheme), rest)
            }
            _ => (None, value.strip_prefix("//")?),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let mapped = self.path(path);
        if self.host.is_some_and(|host| host.eq_ignore_ascii_case(authority)) {
            let (scheme, authority) = (self.request.scheme.as_str(), self.request.authority);
            return Some(format!("{scheme}://{authority}{}", mapped.as_deref().unwrap_or(path)));
        }
        let is_public = authority.eq_ignore_ascii_case(self.request.authority);
        let scheme = scheme.map(|scheme| format!("{scheme}:")).unwrap_or_default();
        mapped.filter(|_| is_public).map(|path| format!("{scheme}//{authority}{path}"))
    }

    fn path(&self, path: &str) -> Option<String> {
        let (own, public) = self.prefixes?;
        // With a second slash at its beginning, as browsers read a backslash, too, it would lead to another host.
        let rest = path.strip_prefix(own).filter(|rest| public != "/" || !rest.starts_with(['/', '\\']))?;
        Some(format!("{public}{rest}"))
    }

    /// A `Set-Cookie` (RFC 6265 section 4.1): its `Path` is a prefix without the slash behind it, and a `Domain` that is the
    /// origin's own name goes: the cookie is of the host that the client has asked.
    fn cookie(&self, value: &str) -> Option<String> {
        let mut changed = false;
        let mut kept = Vec::new();
        for (number, part) in value.split(';').enumerate() {
            let (name, value) = part.split_once('=').map_or((part, ""), |(name, value)| (name, value));
            let is = |wanted: &str| number > 0 && name.trim().eq_ignore_ascii_case(wanted);
            if is("domain") && self.is_own_domain(value.trim()) {
                changed = true;
                continue;
            }
            match Some(value.trim()).filter(|_| is("path")).and_then(|path| self.cookie_path(path)) {
                Some(path) => {
                    changed = true;
                    kept.push(format!(" Path={path}"));
                }
                None => kept.push(part.to_owned()),
            }
        }
        changed.then(|| kept.join(";"))
    }

    fn is_own_domain(&self, domain: &str) -> bool {
        let host = self.host.and_then(parse_authority);
        host.is_some_and(|(host, _)| host.eq_ignore_ascii_case(domain.trim_start_matches('.')))
    }

    fn cookie_path(&self, path: &str) -> Option<String> {
        let (own, public) = self.prefixes?;
        let rest = format!("{path}/").strip_prefix(own).map(str::to_owned)?;
        let mapped = format!("{public}{rest}");
        let mapped = mapped.trim_end_matches('/');
        Some(if mapped.is_empty() { "/".to_owned() } else { mapped.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::tests::{NOW, config, view};
    use super::super::{Plan, plan};
    use super::*;
    use crate::request::{Scheme, tests::map};

    #[test]
    fn places_get_the_names_that_clients_know() {
        let text = |path: &str, rewrite: &str, pool: &str| {
            format!(
                "[pool.app]\norigins = [\"127.0.0.1:1\"]\n{pool}\n[site.shop]\nhosts = [\"shop.example\"]\n\
                 [[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\n{rewrite}"
            )
        };
        let stripped = text("/api/*", "rewrite = { to = \"/{1}\" }", "");
        let moved = text("/api/*", "rewrite = { to = \"/v2/{1}\", host = \"app.internal:8080\" }", "");
        let renamed = text("/*", "", "host = \"app.internal\"");
        let kept = text("/api/*", "rewrite = { to = \"/{1}\", location = \"keep\" }", "host = \"app.internal\"");
        let lost = text("/a*b", "rewrite = { to = \"/{1}\" }", "");
        let rooted = text("/*", "rewrite = { to = \"/app/{1}\" }", "");
        let (location, cookie) = ("location", "set-cookie");
        for (text, name, value, expected) in [
            (&stripped, location, "/x?y=/z", "/api/x?y=/z"),
            (&stripped, location, "/", "/api/"),
            (&stripped, "content-location", "/x", "/api/x"),
            (&stripped, location, "x", "x"),
            (&stripped, location, "?x", "?x"),
            (&stripped, location, "https://shop.example:8443/x", "https://shop.example:8443/api/x"),
            (&stripped, location, "http://shop.example:8443/x", "http://shop.example:8443/api/x"),
            (&stripped, location, "//shop.example:8443/x", "//shop.example:8443/api/x"),
            (&stripped, location, "https://other.example/x", "https://other.example/x"),
            (&stripped, location, "//other.example/x", "//other.example/x"),
            (&stripped, location, "mailto:a@b", "mailto:a@b"),
            (&stripped, cookie, "a=Path=/; Path=/; HttpOnly", "a=Path=/; Path=/api; HttpOnly"),
            (&stripped, cookie, "a=1; path=/x; Domain=shop.example", "a=1; Path=/api/x; Domain=shop.example"),
            (&stripped, cookie, "path=/x", "path=/x"),
            (&moved, location, "/v2/x", "/api/x"),
            (&moved, location, "/other", "/other"),
            (&moved, location, "http://app.internal:8080/v2/x", "https://shop.example:8443/api/x"),
            (&moved, location, "http://APP.internal:8080/other", "https://shop.example:8443/other"),
            (&moved, location, "http://app.internal/v2/x", "http://app.internal/v2/x"),
            (&moved, location, "http://app.internal:8080.evil/", "http://app.internal:8080.evil/"),
            (&moved, cookie, "a=1; Domain=.app.internal; Path=/v2; Secure", "a=1; Path=/api; Secure"),
            (&moved, cookie, "a=1; Path=/v20", "a=1; Path=/v20"),
            (&renamed, location, "http://app.internal/x", "https://shop.example:8443/x"),
            (&renamed, location, "http://app.internal", "https://shop.example:8443"),
            (&renamed, location, "/x", "/x"),
            (&renamed, cookie, "a=1; Domain=app.internal", "a=1"),
            (&kept, location, "http://app.internal/x", "http://app.internal/x"),
            (&lost, location, "/x", "/x"),
            (&rooted, location, "/app/x", "/x"),
            (&rooted, location, "/app//evil.example/", "/app//evil.example/"),
            (&rooted, location, "/app/\\evil.example/", "/app/\\evil.example/"),
            (&rooted, location, "https://shop.example:8443/app//x", "https://shop.example:8443/app//x"),
            (&rooted, cookie, "a=1; Path=/app/", "a=1; Path=/"),
        ] {
            let config = config(text);
            let plain = HeaderMap::new();
            let path = if *text == lost { "/axb" } else { "/api/a" };
            let mut request = view(&Method::POST, "shop.example", path, &plain);
            (request.scheme, request.authority) = (Scheme::Https, "shop.example:8443");
            let Plan::Pass(matched, _) = plan(&config, &request, NOW) else { panic!("{text}") };
            let mut fields = map(&[(name, value)]);
            if let Some(way_back) = WayBack::new(&config, matched, &request) {
                way_back.map_all(&mut fields);
            }
            assert_eq!(fields[name], expected, "{value}\n{text}");
        }
    }
}
