//! What expressions and templates read of a request.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{HeaderMap, StatusCode, Version, header};
use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::expression::{Counted, Facts, Map, Variable};
use crate::pattern::Pattern;
use crate::request::{Fields, RequestView};

/// A request, and what is known beside it.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    pub request: &'a RequestView<'a>,
    /// With its slashes merged, as routes are found by it.
    pub path: &'a str,
    pub now: Timestamp,
    /// What the origin has answered, once it has.
    pub response: Option<(StatusCode, &'a HeaderMap)>,
}

const SECONDS_A_DAY: u64 = 86_400;

impl Facts for RequestFacts<'_> {
    fn text<T>(&self, variable: &Variable, read: impl FnOnce(&[u8]) -> T) -> T {
        match self.at_hand(variable) {
            Some(text) => read(text.as_bytes()),
            None => read(&self.found(variable)),
        }
    }

    fn has(&self, map: Map, name: &Pattern) -> bool {
        match map {
            Map::Headers => name.matches("host") || has_field(self.request.fields, name),
            Map::ResponseHeaders => self.response.is_some_and(|(_, fields)| has_field(Fields::Map(fields), name)),
            Map::Cookies => has_cookie(self.request.fields, name),
            Map::Query => has_parameter(self.request.query, name),
        }
    }

    fn number(&self, counted: Counted) -> i64 {
        let now = self.now.as_secs();
        let number = match counted {
            Counted::Asn => self.request.asn().unwrap_or(0).into(),
            Counted::Port => self.request.local_port.into(),
            Counted::Status => self.response.map_or(0, |(status, _)| status.as_u16().into()),
            Counted::Now => now,
            Counted::Hours => now % SECONDS_A_DAY / 3600,
            Counted::Minutes => now % 3600 / 60,
            Counted::DayOfWeek => (now / SECONDS_A_DAY + 4) % 7, // the epoch began on a Thursday
        };
        i64::try_from(number).unwrap_or(i64::MAX)
    }

    fn client(&self) -> IpAddr {
        self.request.client
    }
}

impl RequestFacts<'_> {
    /// What is most asked for, and need not be looked for.
    #[inline]
    fn at_hand(&self, variable: &Variable) -> Option<&str> {
        Some(match variable {
            Variable::Method => self.request.method.as_str(),
            Variable::Scheme => self.request.scheme.as_str(),
            Variable::Host => self.request.host,
            Variable::Path => self.path,
            Variable::Query => self.request.query.unwrap_or_default(),
            _ => return None,
        })
    }

    /// Any text.
    fn found(&self, variable: &Variable) -> Cow<'_, [u8]> {
        let request = self.request;
        let text = match variable {
            Variable::Listener => request.listener_name.unwrap_or_default(),
            Variable::TlsVersion => request.tls.unwrap_or_default(),
            Variable::Protocol => protocol(request.version),
            Variable::Country => request.country().unwrap_or_default(),
            Variable::RequestId => return request.id.to_string().into_bytes().into(),
            // The same by either protocol: by HTTP/2 the one has another name, and the other comes in several lines.
            Variable::Header(name) if *name == header::HOST => request.authority,
            Variable::Header(name) if *name == header::COOKIE => return cookies(request.fields),
            Variable::Header(name) => return request.fields.joined(name).unwrap_or_default(),
            Variable::Cookie(name) => return cookie(request.fields, name).unwrap_or_default().into(),
            Variable::Parameter(name) => return parameter(request.query, name).unwrap_or_default(),
            Variable::ResponseHeader(name) => {
                let fields = self.response.map(|(_, fields)| Fields::Map(fields));
                return fields.and_then(|fields| fields.joined(name)).unwrap_or_default();
            }
            Variable::Method | Variable::Scheme | Variable::Host | Variable::Path | Variable::Query => {
                self.at_hand(variable).unwrap_or_default()
            }
        };
        text.as_bytes().into()
    }
}

/// As access logs have it.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

fn has_field(fields: Fields<'_>, name: &Pattern) -> bool {
    let mut found = false;
    fields.for_all(|field, _| {
        let has_upper = field.bytes().any(|byte| byte.is_ascii_uppercase());
        found |= if has_upper { name.matches(field.to_ascii_lowercase()) } else { name.matches(field) };
    });
    found
}

/// The value of the first cookie of a name (RFC 6265 section 5.4).
pub(crate) fn cookie<'a>(fields: Fields<'a>, name: &str) -> Option<&'a [u8]> {
    fields
        .find_map(&header::COOKIE, |line| find_pair(line, b';', |pair| value_of(pair, name, b';')))
        .map(<[u8]>::trim_ascii)
}

fn has_cookie(fields: Fields<'_>, name: &Pattern) -> bool {
    fields.find_map(&header::COOKIE, |line| find_pair(line, b';', |pair| is_named(pair, name, b';'))).is_some()
}

/// The value of the first parameter of a name. Both are decoded: what is spelt with escapes is to an origin the same as
/// without.
pub(crate) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, [u8]>> {
    let query = query?.as_bytes();
    if !has_escapes(query) {
        return find_pair(query, b'&', |pair| value_of(pair, name, b'&')).map(Cow::Borrowed);
    }
    let (_, value) = form_urlencoded::parse(query).find(|(parameter, _)| parameter == name)?;
    Some(bytes(value))
}

fn has_parameter(query: Option<&str>, name: &Pattern) -> bool {
    let query = query.unwrap_or_default().as_bytes();
    match has_escapes(query) {
        true => form_urlencoded::parse(query).any(|(parameter, _)| name.matches(&*parameter)),
        false => find_pair(query, b'&', |pair| is_named(pair, name, b'&')).is_some(),
    }
}

/// Whether a query has what is not to be taken as it is written.
fn has_escapes(query: &[u8]) -> bool {
    memchr::memchr2(b'%', b'+', query).is_some()
}

/// What `find` makes of the first pair of a list like `a=1; b=2` of which it makes something. It gets the list from there on: where
/// a pair ends need not be known to see that it is another.
fn find_pair<'a, T>(list: &'a [u8], separator: u8, find: impl Fn(&'a [u8]) -> Option<T>) -> Option<T> {
    let mut rest = list;
    loop {
        rest = rest.trim_ascii_start();
        let is_pair = *rest.first()? != separator;
        if let Some(found) = is_pair.then(|| find(rest)).flatten() {
            return Some(found);
        }
        rest = &rest[memchr::memchr(separator, rest)? + 1..];
    }
}

/// The value of the pair with which a list begins, if it has this name; of one without a value, an empty one.
fn value_of<'a>(list: &'a [u8], name: &str, separator: u8) -> Option<&'a [u8]> {
    let rest = list.strip_prefix(name.as_bytes())?.trim_ascii_start();
    match rest {
        [] => Some(rest),
        [first, ..] if *first == separator => Some(&[]),
        [b'=', rest @ ..] => {
            let end = memchr::memchr(separator, rest).unwrap_or(rest.len());
            Some(&rest[..end])
        }
        _ => None,
    }
}

/// Whether the pair with which a list begins has a name like this, in which there is no `=`.
fn is_named(list: &[u8], name: &Pattern, separator: u8) -> Option<()> {
    if !list.starts_with(name.prefix().as_bytes()) {
        return None;
    }
    if name.is_prefix() {
        return Some(());
    }
    let end = list.iter().position(|byte| *byte == b'=' || *byte == separator).unwrap_or(list.len());
    name.matches(list[..end].trim_ascii_end()).then_some(())
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// All lines of `Cookie` as one (RFC 9113 section 8.2.3).
fn cookies(fields: Fields<'_>) -> Cow<'_, [u8]> {
    let mut lines: SmallVec<[&[u8]; 4]> = SmallVec::new();
    fields.for_each(&header::COOKIE, |line| lines.push(line));
    match lines[..] {
        [] => Cow::default(),
        [line] => line.into(),
        _ => lines.join(&b"; "[..]).into(),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::expression::{Expression, Scope};
    use crate::request::Scheme;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// Each row of tests/tables/expressions.txt, which says how it is read.
    #[test]
    fn expressions() {
        let full = map(&[
            ("accept", "text/html"),
            ("accept", "text/plain"),
            ("user-agent", "curl/7.88"),
            ("x-count", "41"),
            ("x-empty", ""),
            ("cookie", "session=s1; wordpress_logged_in_7=me; a=1; a=2; odd"),
        ]);
        let (none, answered) = (HeaderMap::new(), map(&[("content-type", "text/html"), ("x-rule", "a")]));
        let full = RequestView {
            listener_name: Some("public"),
            tls: Some("TLSv1.3"),
            query: Some("ref=mail&page=12&q=a%20b+c&ref=ad&empty="),
            local_port: 8443,
            version: Version::HTTP_2,
            client: "10.1.2.3".parse().unwrap(),
            ..RequestView::own(&Method::GET, Scheme::Https, "shop.example", "/Shop/a.css", Fields::Map(&full))
        };
        let bare = RequestView {
            version: Version::HTTP_10,
            client: "2001:db8::7".parse().unwrap(),
            ..RequestView::own(&Method::HEAD, Scheme::Http, "shop.example", "/", Fields::Map(&none))
        };
        let mut rows = 0;
        let table = include_str!("../../tests/tables/expressions.txt");
        for row in table.lines().filter(|row| !row.starts_with('#') && !row.is_empty()) {
            let (name, rest) = row.split_once('|').unwrap();
            let (source, expected) = rest.rsplit_once(" | ").unwrap_or_else(|| panic!("{row}"));
            let (source, now) = (source.trim(), Timestamp::from_rfc3339("2026-11-27T10:15:30Z").unwrap());
            let (scope, facts) = match name.trim() {
                "full" => (Scope::Request, RequestFacts { request: &full, path: full.path, now, response: None }),
                name => {
                    let response = matches!(name, "answer" | "alone").then_some((StatusCode::NOT_FOUND, &answered));
                    let scope = match name {
                        "answer" => Scope::Response,
                        "alone" => Scope::Answer,
                        _ => Scope::Request,
                    };
                    (scope, RequestFacts { request: &bare, path: bare.path, now: Timestamp::from_secs(0), response })
                }
            };
            match Expression::compile(source, scope) {
                Ok(expression) => {
                    assert_eq!(expression.is_true(&facts).to_string(), expected, "{row}");
                    let (is_true, part) = expression.explain(&facts);
                    assert!(is_true.to_string() == expected && source.contains(part), "{row}: {part}");
                }
                Err(mistake) => {
                    let said = format!("{}: {}", &source[mistake.at.clone()], mistake.message);
                    let (part, message) = expected.split_once(": ").unwrap_or_else(|| panic!("{row}: {said}"));
                    let is_told = said.starts_with(&format!("{part}: ")) && mistake.message.contains(message);
                    assert!(is_told, "{row}\n{said}");
                }
            }
            rows += 1;
        }
        assert!(rows > 200, "{rows}");
    }

    #[test]
    fn pairs_are_told_apart() {
        for (list, name, value) in [
            ("a=1; b=2", "a", Some("1")),
            ("a=1; b=2", "b", Some("2")),
            ("aa=1; a=2", "a", Some("2")),
            ("a=1; a=2", "a", Some("1")),
            ("aa=1", "a", None),
            ("b=a=1", "a", None),
            ("a", "a", Some("")),
            ("a;b", "a", Some("")),
            ("a=; b", "b", Some("")),
            (" a = 1 ;", "a", Some("1")),
            ("a\t=\t1", "a", Some("1")),
            (";;a=1", "a", Some("1")),
            ("", "a", None),
            (";", "a", None),
            ("=a", "a", None),
            ("a==", "a", Some("=")),
            ("b;a", "a", Some("")),
        ] {
            let fields = map(&[("cookie", list)]);
            let found = cookie(Fields::Map(&fields), name).map(|value| std::str::from_utf8(value).unwrap());
            assert_eq!(found, value, "{list}");
            for (pattern, is_there) in [(name, value.is_some()), ("*", !list.trim_matches(';').is_empty())] {
                let pattern = pattern.parse().unwrap();
                assert_eq!(has_cookie(Fields::Map(&fields), &pattern), is_there, "{pattern} {list}");
            }
        }
        for (query, pattern, is_there) in [
            ("ab=1&bc", "a*", true),
            ("ab=1&bc", "*c", true),
            ("ab=1&bc", "a*b", true),
            ("ab=1&bc", "ab*b", false),
            ("ab=1&bc", "*1", false),
            ("ab=1&bc", "b", false),
            ("%61b=1", "a*b", true),
            ("&&", "*", false),
            ("=", "*", true),
        ] {
            assert_eq!(has_parameter(Some(query), &pattern.parse().unwrap()), is_there, "{pattern} {query}");
        }
        for (query, value) in [
            ("a=1&b=2", Some("1")),
            ("b=2&a=1", Some("1")),
            ("a=1&a=%32", Some("1")),
            ("b=%32&a=1", Some("1")),
            ("b=+&a=1%2", Some("1%2")),
            ("%61=1&a=2", Some("1")),
            ("aa=1&a", Some("")),
            ("a=&a=1", Some("")),
            ("a==1", Some("=1")),
            ("&&a=1&", Some("1")),
            ("b=a=1", None),
            ("=a", None),
            ("", None),
            ("&", None),
        ] {
            let found = parameter(Some(query), "a");
            assert_eq!(found.as_deref(), value.map(str::as_bytes), "{query}");
            // As it is decoded.
            let decoded = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "a");
            assert_eq!(found, decoded.map(|(_, value)| bytes(value)), "{query}");
        }
    }

    #[test]
    fn the_part_that_decided_is_known() {
        let none = HeaderMap::new();
        let request = RequestView::own(&Method::GET, Scheme::Http, "shop.example", "/a", Fields::Map(&none));
        let facts =
            RequestFacts { request: &request, path: request.path, now: Timestamp::from_secs(0), response: None };
        for (source, is_true, part) in [
            ("path == \"/a\" && method == \"POST\"", false, "method == \"POST\""),
            ("path == \"/a\" && method == \"GET\"", true, "path == \"/a\" && method == \"GET\""),
            ("path == \"/b\" || method == \"GET\"", true, "method == \"GET\""),
            ("!(path == \"/a\" && host == \"b\")", true, "host == \"b\""),
            ("!(path == \"/a\")", false, "!(path == \"/a\")"),
            ("path == \"/a\" && (host == \"b\" || port == 1)", false, "(host == \"b\" || port == 1)"),
        ] {
            let expression = Expression::compile(source, Scope::Request).unwrap();
            assert_eq!(expression.explain(&facts), (is_true, part), "{source}");
        }
    }
}
