//! Texts with places for what is known of a request: `https://{host}/new/{1}?from={query.ref}`.
//!
//! Whatever a client puts into a value, it stays a value: it is written so that it ends no line, no field and no part of a URL.

use crate::expression::{Counted, Facts, Map, Variable, member};
use crate::request::{hides_dots, parse_authority};
use crate::spelling::did_you_mean;

/// A text that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    form: Form,
    /// Whether it has a place for a capture.
    captures: bool,
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Value(Value),
}

/// What a place stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Of(Variable),
    /// Of the client, as a text.
    ClientIp,
    /// The number of the client's autonomous system, as a text.
    ClientAsn,
    /// What a star of the route's path stood for, from 1 on.
    Capture(usize),
}

/// What a template makes, and so how values are written in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Url,
    /// A path, perhaps with a query.
    Path,
    /// The value of a header field.
    Field,
    /// That of `Cookie` or `Set-Cookie`, in which a semicolon ends a part.
    Cookie,
}

impl Form {
    fn is_url(self) -> bool {
        matches!(self, Form::Url | Form::Path)
    }
}

/// What a mistake in a template is: at which byte, and what.
pub(crate) type Mistake = (usize, String);

/// The names of places, for hints.
const NAMES: [&str; 15] = [
    "host",
    "path",
    "query",
    "scheme",
    "method",
    "client.ip",
    "client.country",
    "client.asn",
    "tls.version",
    "query.NAME",
    "header.NAME",
    "cookie.NAME",
    "1",
    "protocol",
    "request.id",
];

/// Variables of nginx, and what is written here instead; the longer of two with one beginning first.
const NGINX: [(&str, &str); 22] = [
    ("$proxy_add_x_forwarded_for", "nothing: the node itself sends X-Forwarded-For"),
    ("$request_method", "{method}"),
    ("$request_uri", "{path}, behind which the query is kept by itself"),
    ("$request_id", "{request.id}"),
    ("$document_uri", "{path}"),
    ("$query_string", "{query}"),
    ("$geoip2_", "{client.country} or {client.asn}"),
    ("$ssl_protocol", "{tls.version}"),
    ("$server_name", "{host}"),
    ("$remote_addr", "{client.ip}"),
    ("$upstream_", "nothing: Cache-Status and the access log say what the cache and the origin did"),
    ("$cookie_", "{cookie.NAME}"),
    ("$server_protocol", "{protocol}"),
    ("$http_host", "{host}"),
    ("$http_", "{header.NAME}"),
    ("$cookie_", "{cookie.NAME}"),
    ("$arg_", "{query.NAME}"),
    ("$is_args", "nothing: a query is kept by itself"),
    ("$args", "{query}"),
    ("$scheme", "{scheme}"),
    ("$host", "{host}"),
    ("$uri", "{path}"),
];

impl Template {
    /// Reads a template; `captures`: stars of the route's path. Braces that stand for themselves are written twice.
    pub fn parse(text: &str, form: Form, captures: usize) -> Result<Self, Mistake> {
        if let Some((at, (name, here))) = text
            .match_indices('$')
            .find_map(|(at, _)| Some((at, NGINX.iter().find(|(name, _)| text[at..].starts_with(name))?)))
        {
            return Err((at, format!("{name} is a variable of nginx; write {here}")));
        }
        if let Some(at) = text.find("%[") {
            return Err((
                at,
                "%[ begins a sample of HAProxy's; here values are written {client.ip}, {header.NAME}".to_owned(),
            ));
        }
        let regex = ["(.", ".*", ".+", "[^", "[a-z", "[A-Z", "[0-9", "\\d"];
        if let Some(at) = regex.into_iter().find_map(|sign| text.find(sign)).filter(|_| form.is_url()) {
            let why = "a regular expression means nothing here; what the first star of the path stood for is {1}";
            return Err((at, why.to_owned()));
        }
        let (mut parts, mut literal, mut at) = (Vec::new(), String::new(), 0);
        while let Some(brace) = text[at..].find(['{', '}']).map(|found| at + found) {
            literal.push_str(&text[at..brace]);
            let twice = text[brace + 1..].starts_with(&text[brace..=brace]);
            if twice {
                literal.push_str(&text[brace..=brace]);
                at = brace + 2;
                continue;
            }
            let end = text[brace..].find('}').filter(|end| *end > 0).map(|end| brace + end);
            let Some(end) = end else {
                return Err((brace, "a brace that stands for itself is written twice: {{ or }}".to_owned()));
            };
            let value = value(&text[brace + 1..end], captures).map_err(|why| (brace, why))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Value(value));
            at = end + 1;
        }
        literal.push_str(&text[at..]);
        let fits = |c: char| match form.is_url() {
            true => c.is_ascii_graphic() && !"\"<>\\^`|".contains(c),
            false => c.is_ascii_graphic() || matches!(c, ' ' | '\t'),
        };
        if let Some((at, bad)) = text.char_indices().find(|(_, c)| !fits(*c)) {
            let what = if form.is_url() { "a URL; write it with a %" } else { "the value of a header field" };
            return Err((at, format!("{bad:?} is no part of {what}")));
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        let captures = parts.iter().any(|part| matches!(part, Part::Value(Value::Capture(_))));
        let template = Template { form, captures, parts: parts.into() };
        if form.is_url() {
            template.check_literals(text)?;
            template.check_query()?;
            template.check_url()?;
        }
        Ok(template)
    }

    /// What the operator has written of a URL is one.
    fn check_literals(&self, text: &str) -> Result<(), Mistake> {
        let is_escape = |rest: &str| rest.get(1..3).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        for part in &self.parts {
            let Part::Literal(literal) = part else { continue };
            if literal.match_indices('%').any(|(at, _)| !is_escape(&literal[at..])) {
                return Err((0, "behind a % come two hexadecimal digits; a % itself is written %25".to_owned()));
            }
            if literal.split('$').skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
                return Err((0, "a star or a group is written {1}; a $ before a digit, %24".to_owned()));
            }
        }
        let path = text.split(['?', '#']).next().unwrap_or_default();
        match path.split('/').any(|segment| matches!(segment, "." | "..") || hides_dots(segment)) {
            true => Err((0, "a path is written without . and .. in it".to_owned())),
            false => Ok(()),
        }
    }

    /// A query is many parameters: within one, or in a path, a client could begin others.
    fn check_query(&self) -> Result<(), Mistake> {
        let text = |at: Option<usize>| match at.and_then(|at| self.parts.get(at)) {
            Some(Part::Literal(text)) => Some(&**text),
            Some(Part::Value(_)) => Some("{"),
            None => None,
        };
        let is_query = |part: &Part| matches!(part, Part::Value(Value::Of(Variable::Query)));
        for at in (0..self.parts.len()).filter(|at| is_query(&self.parts[*at])) {
            let begins = text(at.checked_sub(1)).is_some_and(|before| before.ends_with(['?', '&']));
            let ends = text(Some(at + 1)).is_none_or(|after| after.starts_with(['&', '#']));
            if !begins || !ends {
                let why = "{query} is a whole query: it stands behind a ? or an &; one parameter is {query.NAME}";
                return Err((0, why.to_owned()));
            }
        }
        Ok(())
    }

    /// Where a URL leads is for the operator to say: a client has a part in its host only by the host that it has asked for.
    fn check_url(&self) -> Result<(), Mistake> {
        const HOST: char = '\u{1}';
        const SCHEME: char = '\u{2}';
        const PATH: char = '\u{3}';
        const OTHER: char = '\u{4}';
        let outline: String = self.parts.iter().fold(String::new(), |mut outline, part| {
            match part {
                Part::Literal(text) => outline.push_str(text),
                Part::Value(Value::Of(Variable::Host)) => outline.push(HOST),
                Part::Value(Value::Of(Variable::Scheme)) => outline.push(SCHEME),
                Part::Value(Value::Of(Variable::Path)) => outline.push(PATH),
                Part::Value(_) => outline.push(OTHER),
            }
            outline
        });
        if let Some(at) = outline.find('#').filter(|_| self.form == Form::Path) {
            return Err((at, "no origin is asked for what follows a #; one of a path is written %23".to_owned()));
        }
        if outline.starts_with(PATH) || outline.starts_with('/') && !outline.starts_with("//") {
            return Ok(());
        }
        if self.form == Form::Path {
            return Err((0, "it must begin with / or {path}".to_owned()));
        }
        let schemes = ["https://".to_owned(), "http://".to_owned(), format!("{SCHEME}://")];
        let Some(rest) = schemes.iter().find_map(|scheme| outline.strip_prefix(scheme)) else {
            return Err((0, "it must begin with /, {path}, or a host as in https://www.example.com/".to_owned()));
        };
        let host = rest.split(['/', '?', PATH]).next().unwrap_or_default();
        let is_of_host = |c: char| c == HOST || c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        match !host.is_empty() && host.chars().all(is_of_host) {
            true if parse_authority(&host.replace(HOST, "host")).is_some() => Ok(()),
            true => Err((0, "its host is not valid, or its port".to_owned())),
            false => Err((
                0,
                "before its path only {host} may stand for something: nobody else says where it leads".to_owned(),
            )),
        }
    }

    /// What it is where it has no places.
    pub(crate) fn as_literal(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it is to be rendered with captures.
    pub(crate) fn needs_captures(&self) -> bool {
        self.captures
    }

    /// What its places stand for.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value(value) => Some(value),
            Part::Literal(_) => None,
        })
    }

    /// What it has before a place for a capture, if it has that and nothing else.
    pub(crate) fn before_capture(&self) -> Option<&str> {
        match &*self.parts {
            [Part::Literal(text), Part::Value(Value::Capture(1))] => Some(text),
            _ => None,
        }
    }

    /// Whether the operator has written a query into a URL.
    pub(crate) fn has_query(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Literal(text) if text.contains('?')))
    }

    /// Writes it; `captures`: what the stars of the route's path stood for.
    pub fn render(&self, facts: &impl Facts, captures: &[&str]) -> String {
        let (mut out, mut in_query) = (String::new(), false);
        for part in &self.parts {
            match part {
                Part::Literal(text) => {
                    in_query |= text.contains('?');
                    out.push_str(text);
                }
                Part::Value(value) => push(&mut out, (self.form, in_query), value, facts, captures),
            }
        }
        if self.form.is_url() { keep_host(without_dots(out)) } else { out }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (map, name) = match self {
            Value::ClientIp => return f.write_str("client.ip"),
            Value::ClientAsn => return f.write_str("client.asn"),
            Value::Of(Variable::Country) => return f.write_str("client.country"),
            Value::Of(Variable::TlsVersion) => return f.write_str("tls.version"),
            Value::Of(Variable::RequestId) => return f.write_str("request.id"),
            Value::Capture(number) => return number.fmt(f),
            Value::Of(Variable::Header(name)) => ("header", name.as_str()),
            Value::Of(Variable::Cookie(name)) => ("cookie", &**name),
            Value::Of(Variable::Parameter(name)) => ("query", &**name),
            Value::Of(variable) => return f.write_str(&format!("{variable:?}").to_ascii_lowercase()),
        };
        write!(f, "{map}.{name}")
    }
}

/// Takes away what would make of a path another host: several slashes at its beginning, as browsers read backslashes, too.
fn keep_host(mut url: String) -> String {
    if url.starts_with('/') {
        let slashes = url.len() - url.trim_start_matches(['/', '\\']).len();
        url.replace_range(1..slashes.max(1), "");
    }
    url
}

/// Takes away the segments that would lead out of the path that the operator has written (RFC 3986 section 5.2.4), in
/// whatever way their dots are spelt, and the slashes beside them.
fn without_dots(url: String) -> String {
    let is_dots = |segment: &str| matches!(segment, "." | "..") || hides_dots(segment);
    let (whole, query) = url.split_once('?').map_or((&*url, None), |(whole, query)| (whole, Some(query)));
    if !whole.split('/').any(is_dots) {
        return url;
    }
    let mut kept: Vec<&str> = whole.split('/').filter(|segment| !is_dots(segment)).collect();
    // What leads to a directory still does.
    if whole.rsplit('/').next().is_some_and(is_dots) {
        kept.push("");
    }
    let kept = kept.join("/");
    let kept = if kept.is_empty() { "/".to_owned() } else { kept };
    query.map_or(kept.clone(), |query| format!("{kept}?{query}"))
}

fn push(out: &mut String, (form, in_query): (Form, bool), value: &Value, facts: &impl Facts, captures: &[&str]) {
    let mut write = |text: &[u8]| write(out, (form, in_query), value, text);
    match value {
        Value::Of(variable) => facts.text(variable, write),
        Value::ClientIp => write(facts.client().to_canonical().to_string().as_bytes()),
        Value::ClientAsn => write(facts.number(Counted::Asn).to_string().as_bytes()),
        Value::Capture(number) => write(captures.get(number - 1).map_or(&b""[..], |text| text.as_bytes())),
    }
}

/// Writes the text of a value so that it stays one.
fn write(out: &mut String, (form, in_query): (Form, bool), value: &Value, text: &[u8]) {
    // These are written in a URL already, escapes and all.
    let is_written = matches!(
        value,
        Value::Of(Variable::Path | Variable::Query | Variable::Host | Variable::Scheme) | Value::Capture(_)
    );
    // No value begins a query or a fragment.
    let stays = |byte: u8| match is_written {
        _ if form == Form::Field => matches!(byte, b' '..=b'~'),
        _ if form == Form::Cookie => byte.is_ascii_graphic() && !b"\",;\\".contains(&byte),
        true if in_query && *value != Value::Of(Variable::Query) => {
            byte.is_ascii_alphanumeric() || b"-._~/%:@".contains(&byte)
        }
        true => byte.is_ascii_graphic() && !b"\"<>\\^`{|}#?".contains(&byte) || in_query && byte == b'?',
        false => byte.is_ascii_alphanumeric() || b"-._~".contains(&byte),
    };
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| !stays(*byte)) {
        out.push_str(&String::from_utf8_lossy(&rest[..at]));
        out.push_str(&format!("%{:02X}", rest[at]));
        rest = &rest[at + 1..];
    }
    out.push_str(&String::from_utf8_lossy(rest));
}

fn value(name: &str, captures: usize) -> Result<Value, String> {
    let simple = match name {
        "host" => Some(Variable::Host),
        "path" => Some(Variable::Path),
        "query" => Some(Variable::Query),
        "scheme" => Some(Variable::Scheme),
        "method" => Some(Variable::Method),
        "protocol" => Some(Variable::Protocol),
        "request.id" => Some(Variable::RequestId),
        "client.country" => Some(Variable::Country),
        "tls.version" => Some(Variable::TlsVersion),
        _ => None,
    };
    if let Some(variable) = simple {
        return Ok(Value::Of(variable));
    }
    match name {
        "client.ip" => return Ok(Value::ClientIp),
        "client.asn" => return Ok(Value::ClientAsn),
        _ => {}
    }
    if let Ok(number @ 1..) = name.parse::<usize>() {
        return match captures {
            _ if number <= captures => Ok(Value::Capture(number)),
            0 => Err(format!("{{{name}}} stands for nothing: the path has no *")),
            _ => Err(format!("{{{name}}} stands for nothing: the last is {{{captures}}}")),
        };
    }
    let map = |of| match of {
        "header" => Some(Map::Headers),
        "cookie" => Some(Map::Cookies),
        "query" => Some(Map::Query),
        _ => None,
    };
    if let Some((of, name)) = name.split_once('.')
        && let Some(map) = map(of)
        && !name.is_empty()
    {
        return member(map, name).map(Value::Of);
    }
    let meant = did_you_mean(name, NAMES);
    let hint = meant.map_or(format!("known are {}", NAMES.join(", ")), |meant| format!("did you mean {{{meant}}}?"));
    Err(format!("{{{name}}} is not known here; {hint}"))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::expression::Counted;
    use crate::pattern::Pattern;

    /// A client that puts one text everywhere it can.
    struct Hostile<'h>(&'h str);

    impl Facts for Hostile<'_> {
        fn text<T>(&self, variable: &Variable, read: impl FnOnce(&[u8]) -> T) -> T {
            read(match variable {
                Variable::Host => b"shop.example",
                Variable::Scheme => b"https",
                Variable::Path => b"/a//b",
                Variable::Query => b"x=1&y",
                _ => self.0.as_bytes(),
            })
        }

        fn has(&self, _: Map, _: &Pattern) -> bool {
            false
        }

        fn number(&self, _: Counted) -> i64 {
            0
        }

        fn client(&self) -> IpAddr {
            [192, 0, 2, 7].into()
        }
    }

    #[test]
    fn urls_are_made() {
        for (template, value, expected) in [
            ("/new/{1}", "a/b", "/new/a/b"),
            ("https://{host}{path}", "", "https://shop.example/a//b"),
            ("{scheme}://www.{host}:8443/{1}?{query}", "c", "https://www.shop.example:8443/c?x=1&y"),
            ("https://other.example", "", "https://other.example"),
            ("/{1}", "/evil.example", "/evil.example"),
            ("/{1}", "\\\\evil.example", "/%5C%5Cevil.example"),
            ("{path}", "", "/a//b"),
            ("/a?to={query.u}", "https://x/?y#z", "/a?to=https%3A%2F%2Fx%2F%3Fy%23z"),
            ("/a/{1}", "b?c#d", "/a/b%3Fc%23d"),
            ("/a?b=1&{query}&c=2", "", "/a?b=1&x=1&y&c=2"),
            ("/a?{query}#end", "", "/a?x=1&y#end"),
            ("/price/$/%24", "", "/price/$/%24"),
            ("https://[2001:db8::1]:8443/{1}", "a", "https://[2001:db8::1]:8443/a"),
            ("/a?to={1}&b=1", "x&to=y;z=1+2", "/a?to=x%26to%3Dy%3Bz%3D1%2B2&b=1"),
            ("/a/{header.X}/b", "..", "/a/b"),
            ("/a/{query.x}{query.x}", ".", "/a/"),
            ("/a/{query.x}/b", "..%2f../etc", "/a/b"),
            ("/a/{query.x}/b", "../../etc", "/a/b"),
            ("/a/{1}", "%2e%2E/b", "/a/b"),
            ("/{{1}}", "", "/{1}"),
            ("/by/{client.ip}", "", "/by/192.0.2.7"),
            ("/{cookie.a}", "a\r\nX: b", "/a%0D%0AX%3A%20b"),
        ] {
            let parsed = Template::parse(template, Form::Url, 1).unwrap_or_else(|(_, why)| panic!("{template}: {why}"));
            assert_eq!(parsed.render(&Hostile(value), &[value]), expected, "{template} {value:?}");
        }
        for (bad, why) in [
            ("//evil.example/", "it must begin with /"),
            ("evil", "it must begin with /"),
            ("ftp://a/", "it must begin with /"),
            ("{query.to}", "it must begin with /"),
            ("{1}", "it must begin with /"),
            ("https://{query.to}/", "only {host}"),
            ("https://{host}{query.to}/", "only {host}"),
            ("https://a{1}", "only {host}"),
            ("https:///a", "only {host}"),
            ("https://user@a/", "only {host}"),
            ("/{2}", "the last is {1}"),
            ("/{hots}", "did you mean {host}?"),
            ("/{}", "is not known here"),
            ("/{header.a b}", "is not the name of a header field"),
            ("/{header.}", "is not known here"),
            ("/{", "written twice"),
            ("/}", "written twice"),
            ("/a b", "no part of a URL"),
            ("/ä", "no part of a URL"),
            ("/a\r\nX: y", "no part of a URL"),
            ("/a\"b", "no part of a URL"),
            ("/a\\b", "no part of a URL"),
            ("/a^<>|`b", "no part of a URL"),
            ("/%zz", "two hexadecimal digits"),
            ("/a%", "two hexadecimal digits"),
            ("/%{1}", "two hexadecimal digits"),
            ("/$1", "written {1}"),
            ("https://$host$request_uri", "write {host}"),
            ("/x$is_args$args", "nothing: a query is kept"),
            ("/a/../b/{1}", "without . and .."),
            ("/a/%2e%2e/b", "without . and .."),
            ("https://a:99999/{1}", "host is not valid"),
            ("https://a..b/{1}", "host is not valid"),
            ("https://b]/{1}", "host is not valid"),
            ("/{query}", "{query} is a whole query"),
            ("/a?b={query}", "{query} is a whole query"),
            ("/a?{query}x", "{query} is a whole query"),
            ("/a?{query}{path}", "{query} is a whole query"),
        ] {
            let (_, said) = Template::parse(bad, Form::Url, 1).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn values_of_fields_are_one_line() {
        for (template, value, expected) in [
            ("max-age=60, {header.X}", "a b", "max-age=60, a b"),
            ("{cookie.a}", "a\r\nSet-Cookie: b", "a%0D%0ASet-Cookie: b"),
            ("{query.x}", "\0\u{7f}\u{e4}\t", "%00%7F%C3%A4%09"),
            ("for={client.ip}; {host}{path}", "", "for=192.0.2.7; shop.example/a//b"),
        ] {
            let template = Template::parse(template, Form::Field, 0).unwrap();
            assert_eq!(template.render(&Hostile(value), &[]), expected);
        }
        assert!(Template::parse("a\r\nb", Form::Field, 0).is_err());
        let cookie = Template::parse("lang={query.x}; Path=/", Form::Cookie, 0).unwrap();
        let value = "x; Domain=a, \"b\"";
        assert_eq!(cookie.render(&Hostile(value), &[]), "lang=x%3B%20Domain=a%2C%20%22b%22; Path=/");
    }

    #[test]
    fn no_value_leads_elsewhere_or_ends_a_line() {
        let mut random = fastrand::Rng::with_seed(11);
        let parts = [
            "/",
            "//",
            "\\",
            "..",
            ".",
            "%2e",
            "%2E%2e",
            "?",
            "#",
            "@",
            ":",
            "\r\n",
            "\0",
            "a",
            "evil.example",
            "ä",
            "%",
            " ",
        ];
        let templates = [
            "/{1}",
            "/a/{1}",
            "/a/{query.x}/b",
            "{path}",
            "https://{host}/{1}",
            "https://{host}/a/{header.X}?q={1}",
            "/{1}{query.x}",
        ];
        for _ in 0..20_000 {
            let value: String = (0..random.usize(0..6)).map(|_| parts[random.usize(..parts.len())]).collect();
            let template = templates[random.usize(..templates.len())];
            let url = Template::parse(template, Form::Url, 1).unwrap().render(&Hostile(&value), &[&value]);
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{template} {value:?} {url}");
            let path = match url.strip_prefix("https://") {
                Some(rest) => rest.strip_prefix("shop.example").unwrap_or_else(|| panic!("{template} {value:?} {url}")),
                None => {
                    assert!(!url.starts_with("//"), "{template} {value:?} {url}");
                    &url
                }
            };
            let path = path.split('?').next().unwrap();
            assert!(path.is_empty() || path.starts_with('/'), "{template} {value:?} {url}");
            let is_dots = |segment: &str| matches!(segment.to_lowercase().replace("%2e", ".").as_str(), "." | "..");
            assert!(!path.split('/').any(is_dots), "{template} {value:?} {url}");
        }
    }
}
