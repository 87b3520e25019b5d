//! Which of several stored responses a request selects: by `Vary` (RFC 9111 section 4.1), and by what the route's
//! rules count as if `Vary` named it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::config::model::{CacheRules, Coding, KeyRules, Node, Pattern};
use crate::config::read::IpRange;
use crate::origin::forward;
use crate::request::{Fields, RequestView};

use super::negotiate;

/// A request as stored responses are selected by it: its fields, and what the node would say of it to an origin.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    pub fields: Fields<'a>,
    pub client: IpAddr,
    pub version: Version,
    pub trusted_proxies: &'a [IpRange],
}

impl<'a> Presented<'a> {
    pub fn new(view: &RequestView<'a>, node: &'a Node) -> Self {
        let (fields, client, version) = (view.fields, view.client, view.version);
        Presented { fields, client, version, trusted_proxies: &node.trusted_proxies }
    }

    /// A field's lines as one list, as the node would send them.
    fn sent(self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        let own = self.fields.joined(name);
        if *name == forward::FORWARDED_FOR {
            let before = own.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            return Some(forward::believed_chain(&before, self.client, self.trusted_proxies).into_bytes().into());
        }
        if *name == header::VIA {
            let before = own.map(|via| [&via, &b", "[..]].concat()).unwrap_or_default();
            return Some([&before, forward::via(self.version, "").as_bytes()].concat().into());
        }
        own
    }
}

/// What a response was selected by, and the values of the request which it answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Variant(Option<Box<Selectors>>);

/// In a box of their own: most responses have none.
type Selectors = Box<[Selector]>;

/// One axis and the value on it; `None`: the request said nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Selector {
    axis: Axis,
    value: Option<Box<[u8]>>,
}

/// Something in requests by which responses differ. It says itself how it is read, so that what is stored stays
/// valid when the rules change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Axis {
    Field(#[serde(with = "header_name")] HeaderName),
    Cookie(Box<str>),
    Device,
    /// The best of these.
    Encoding(Arc<[Coding]>),
    Language(Arc<[Box<str>]>),
    /// All cookies whose names are like this.
    Cookies(Pattern),
    /// All fields whose names are like this.
    Fields(Pattern),
}

impl Axis {
    fn value(&self, presented: Presented<'_>) -> Option<Box<[u8]>> {
        let request = presented.fields;
        match self {
            Axis::Field(name) => field_value(presented, name),
            Axis::Cookie(name) => negotiate::cookie(request, name).map(Into::into),
            Axis::Cookies(pattern) => {
                let pairs = cookies_like(request, pattern);
                (!pairs.is_empty()).then(|| pairs.join(&b"; "[..]).into())
            }
            Axis::Fields(pattern) => fields_like(request, pattern),
            Axis::Device => Some(negotiate::device(request).as_bytes().into()),
            Axis::Encoding(offered) => {
                negotiate::best_coding(request, offered.iter().copied()).map(|coding| coding.as_str().as_bytes().into())
            }
            Axis::Language(offered) => negotiate::best_language(request, offered).map(|tag| tag.as_bytes().into()),
        }
    }

    /// Whether its value may let somebody in who has it.
    fn is_secret(&self) -> bool {
        match self {
            Axis::Field(name) => {
                [header::AUTHORIZATION, header::COOKIE].contains(name) || name.as_str().contains("token")
            }
            Axis::Cookie(_) | Axis::Cookies(_) => true,
            _ => false,
        }
    }

    /// As operators know it.
    fn name(&self) -> String {
        match self {
            Axis::Field(name) => name.to_string(),
            Axis::Cookie(name) => format!("cookie {name}"),
            Axis::Cookies(pattern) => format!("cookies {pattern}"),
            Axis::Fields(pattern) => pattern.to_string(),
            Axis::Device => "device".into(),
            Axis::Encoding(_) => header::ACCEPT_ENCODING.to_string(),
            Axis::Language(_) => header::ACCEPT_LANGUAGE.to_string(),
        }
    }
}

impl Variant {
    /// `None` for `Vary: *`, which matches no request at all.
    pub fn of(response: &HeaderMap, request: Presented<'_>, rules: &CacheRules) -> Option<Self> {
        let key = &rules.key;
        let mut axes: SmallVec<[Axis; 1]> = key.headers.iter().map(keyed_field).collect();
        axes.extend(key.cookies.iter().flat_map(|names| names.iter().map(keyed_cookie)));
        axes.extend(key.device.then_some(Axis::Device));
        for line in response.get_all(header::VARY) {
            for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                if name == "*" {
                    return None;
                }
                if let Some(axis) = axis(name.parse().ok()?, rules)
                    && !axes.contains(&axis)
                {
                    axes.push(axis);
                }
            }
        }
        Some(Self::along(axes, request))
    }

    /// By the same axes that of another request.
    pub fn of_another(&self, request: Presented<'_>) -> Self {
        Self::along(self.selectors().iter().map(|selector| selector.axis.clone()), request)
    }

    fn along(axes: impl IntoIterator<Item = Axis>, request: Presented<'_>) -> Self {
        let selectors = axes.into_iter().map(|axis| Selector { value: axis.value(request), axis }).collect();
        Variant(Some(selectors).filter(|selectors: &Selectors| !selectors.is_empty()).map(Box::new))
    }

    /// Whether every request selects it.
    pub fn is_any(&self) -> bool {
        self.0.is_none()
    }

    /// Whether requests are told apart by a field.
    pub fn is_by_field(&self, name: &HeaderName) -> bool {
        self.selectors().iter().any(|selector| matches!(&selector.axis, Axis::Field(field) if field == name))
    }

    fn selectors(&self) -> &[Selector] {
        self.0.as_deref().map_or(&[], |selectors| selectors)
    }

    /// Whether a request has the same values.
    pub fn matches(&self, request: Presented<'_>) -> bool {
        let fields = request.fields;
        self.selectors().iter().all(|Selector { axis, value }| match (axis, value) {
            // The common case without allocation: one line, byte for byte the same.
            (Axis::Field(name), Some(value)) if *name != header::COOKIE && !forward::is_our_own(name) => {
                fields.get(name).is_some_and(|line| line == value.as_ref())
                    && fields.joined(name).is_some_and(|joined| joined.len() == value.len())
                    || field_value(request, name).as_ref() == Some(value)
            }
            (Axis::Field(name), None) if !forward::is_our_own(name) => !fields.contains(name),
            (axis, value) => axis.value(request) == *value,
        })
    }

    /// Fields of a request that selects it, as far as it is selected by fields.
    pub fn request_fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for Selector { axis, value } in self.selectors() {
            let name = match axis {
                Axis::Field(name) => name.clone(),
                Axis::Encoding(_) => header::ACCEPT_ENCODING,
                Axis::Language(_) => header::ACCEPT_LANGUAGE,
                Axis::Cookie(_) | Axis::Cookies(_) | Axis::Fields(_) | Axis::Device => continue,
            };
            if let Some(value) = value.as_deref().and_then(|value| HeaderValue::from_bytes(value).ok()) {
                fields.insert(name, value);
            }
        }
        fields
    }

    /// What it is selected by, with the values, for people to read: but for those that let somebody in.
    pub fn describe(&self) -> Vec<(String, Option<String>)> {
        let text = |selector: &Selector| {
            let value = selector.value.as_deref()?;
            Some(match selector.axis.is_secret() {
                true => "(not shown)".to_owned(),
                false => String::from_utf8_lossy(value).into_owned(),
            })
        };
        self.selectors().iter().map(|selector| (selector.axis.name(), text(selector))).collect()
    }

    /// Bytes of memory beyond the struct itself.
    pub fn weight(&self) -> usize {
        let selector = std::mem::size_of::<Selector>() + 16;
        self.selectors()
            .iter()
            .map(|Selector { value, .. }| selector + value.as_ref().map_or(0, |value| value.len()))
            .sum()
    }
}

/// Names of fields in files of the disk tier.
mod header_name {
    use http::HeaderName;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
        <&str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// How a field that the route's key names is read.
fn keyed_field(pattern: &Pattern) -> Axis {
    match pattern.exact().and_then(|name| name.parse().ok()) {
        Some(name) => Axis::Field(name),
        None => Axis::Fields(pattern.clone()),
    }
}

fn keyed_cookie(pattern: &Pattern) -> Axis {
    match pattern.exact() {
        Some(name) => Axis::Cookie(name.into()),
        None => Axis::Cookies(pattern.clone()),
    }
}

/// How a field that `Vary` names is read under the rules; `None`: what it says is counted already, or no origin gets it,
/// so that nothing can depend on it. Scheme and host are in the key.
fn axis(name: HeaderName, rules: &CacheRules) -> Option<Axis> {
    let key = &rules.key;
    match name {
        header::ACCEPT_ENCODING => match &key.accept_encoding {
            Some(offered) if offered.is_empty() => None, // all are asked for alike
            Some(offered) => Some(Axis::Encoding(offered.clone())),
            None => Some(Axis::Field(name)),
        },
        header::ACCEPT_LANGUAGE => Some(match &key.accept_language {
            Some(offered) => Axis::Language(offered.clone()),
            None => Axis::Field(name),
        }),
        header::COOKIE if key.cookies.is_some() => None,
        header::USER_AGENT if key.device => None,
        name if name == negotiate::DEVICE_CLASS && key.device => None,
        name if forward::is_our_own(&name) => Some(Axis::Field(name)),
        name if !forward::goes_with_fill(name.as_str(), rules) => None,
        name if key.headers.iter().any(|pattern| pattern.exact().is_none() && pattern.matches(name.as_str())) => None,
        name => Some(Axis::Field(name)),
    }
}

/// Reduces the fields of a request on its way to an origin to what the rules tell apart: what is not keyed must not
/// shape what all get.
pub fn normalise(fields: &mut HeaderMap, rules: &KeyRules) {
    let request = Fields::Map(fields);
    let mut wanted: SmallVec<[(HeaderName, Option<Vec<u8>>); 4]> = SmallVec::new();
    if let Some(offered) = &rules.accept_encoding {
        let coding = negotiate::best_coding(request, offered.iter().copied()).map_or("identity", Coding::as_str);
        wanted.push((header::ACCEPT_ENCODING, Some(coding.into())));
    }
    if let Some(offered) = &rules.accept_language {
        let language = negotiate::best_language(request, offered);
        wanted.push((header::ACCEPT_LANGUAGE, language.map(Into::into)));
    }
    if let Some(patterns) = &rules.cookies {
        let one = |name: &str| Some([name.as_bytes(), b"=", negotiate::cookie(request, name)?].concat());
        let like = |pattern: &Pattern| match pattern.exact() {
            Some(name) => one(name).into_iter().collect(),
            None => cookies_like(request, pattern),
        };
        let pairs: Vec<Vec<u8>> = patterns.iter().flat_map(like).collect();
        wanted.push((header::COOKIE, (!pairs.is_empty()).then(|| pairs.join(&b"; "[..]))));
    }
    if rules.device {
        wanted.push((negotiate::DEVICE_CLASS.clone(), Some(negotiate::device(request).into())));
    }
    for (name, value) in wanted {
        match value.and_then(|value| HeaderValue::from_bytes(&value).ok()) {
            Some(value) => fields.insert(name, value),
            None => fields.remove(name),
        };
    }
}

/// The lines of a field combined, white space around list separators removed, in lower case where case means
/// nothing (RFC 9110 sections 12.5.3 and 12.5.4).
fn field_value(request: Presented<'_>, name: &HeaderName) -> Option<Box<[u8]>> {
    if *name == header::COOKIE {
        return cookies(request.fields); // no list: a comma is part of a value, and origins get one line
    }
    let mut joined = request.sent(name)?;
    if matches!(*name, header::ACCEPT_LANGUAGE | header::ACCEPT_ENCODING) {
        joined = joined.to_ascii_lowercase().into();
    }
    if !joined.contains(&b',') {
        return Some(joined.trim_ascii().into());
    }
    let parts: Vec<&[u8]> = joined.split(|b| *b == b',').map(<[u8]>::trim_ascii).collect();
    Some(parts.join(&b',').into())
}

/// The cookies whose names are like this, `NAME=VALUE` each, in the order of their names, so that their order in the
/// request does not matter.
fn cookies_like(request: Fields<'_>, pattern: &Pattern) -> Vec<Vec<u8>> {
    let mut pairs: Vec<Vec<u8>> = Vec::new();
    request.for_each(&header::COOKIE, |line| {
        for pair in line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            if pair.contains(&b'=') && std::str::from_utf8(name).is_ok_and(|name| pattern.matches(name)) {
                pairs.push(pair.to_vec());
            }
        }
    });
    pairs.sort();
    pairs
}

/// The fields whose names are like this, with their values.
fn fields_like(request: Fields<'_>, pattern: &Pattern) -> Option<Box<[u8]>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    request.for_all(|name, value| {
        let name = name.to_ascii_lowercase();
        if pattern.matches(&name) {
            lines.push([name.as_bytes(), b": ", value].concat());
        }
    });
    lines.sort();
    (!lines.is_empty()).then(|| lines.join(&b"\n"[..]).into())
}

/// All lines of `Cookie` as one, as they are sent to origins (RFC 9113 section 8.2.3).
fn cookies(request: Fields<'_>) -> Option<Box<[u8]>> {
    let mut lines: SmallVec<[&[u8]; 4]> = SmallVec::new();
    request.for_each(&header::COOKIE, |line| lines.push(line.trim_ascii()));
    (!lines.is_empty()).then(|| lines.join(&b"; "[..]).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::CacheMode;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    fn presented(fields: &HeaderMap) -> Presented<'_> {
        by([192, 0, 2, 1], fields)
    }

    fn by(client: [u8; 4], fields: &HeaderMap) -> Presented<'_> {
        let (fields, client) = (Fields::Map(fields), client.into());
        Presented { fields, client, version: Version::HTTP_11, trusted_proxies: &[] }
    }

    fn respect(key: KeyRules) -> CacheRules {
        CacheRules { mode: CacheMode::Respect { default_ttl: None }, key, ..CacheRules::default() }
    }

    #[test]
    fn what_the_node_says_itself_tells_clients_apart() {
        let (none, spoofed) = (map(&[]), map(&[("x-forwarded-for", "192.0.2.1"), ("via", "1.1 x")]));
        let rules = respect(KeyRules::default());
        for (vary, request, client, matches) in [
            ("x-forwarded-for", &none, [192, 0, 2, 1], true),
            ("x-forwarded-for", &none, [192, 0, 2, 2], false),
            ("x-forwarded-for", &spoofed, [192, 0, 2, 1], true),
            ("x-forwarded-for", &spoofed, [192, 0, 2, 2], false),
            ("via", &spoofed, [192, 0, 2, 1], false),
            // The key has them.
            ("x-forwarded-proto, x-forwarded-host, x-forwarded-port", &spoofed, [192, 0, 2, 2], true),
            // No origin gets them.
            ("forwarded, x-device-class, true-client-ip, x-real-ip", &spoofed, [192, 0, 2, 2], true),
        ] {
            let variant = Variant::of(&map(&[("vary", vary)]), presented(&none), &rules).unwrap();
            assert_eq!(variant.matches(by(client, request)), matches, "{vary} {request:?} {client:?}");
        }
        let http2 = Presented { version: Version::HTTP_2, ..presented(&none) };
        let variant = Variant::of(&map(&[("vary", "via")]), presented(&none), &rules).unwrap();
        assert!(variant.matches(presented(&none)) && !variant.matches(http2));
    }

    #[test]
    fn what_is_not_sent_tells_nothing_apart() {
        let mode = CacheMode::Force { ttl: std::time::Duration::from_secs(1) };
        let rules = CacheRules { mode, ..CacheRules::default() };
        let variant = Variant::of(&map(&[("vary", "cookie, x-color, accept")]), presented(&map(&[])), &rules).unwrap();
        assert!(variant.matches(presented(&map(&[("cookie", "a=1"), ("x-color", "red")]))));
        assert!(!variant.matches(presented(&map(&[("accept", "text/html")]))));
    }

    #[test]
    fn names_with_a_star_stand_for_all_that_are_like_them() {
        let pattern = |text: &str| text.parse::<Pattern>().unwrap();
        let key = KeyRules {
            cookies: Some([pattern("wordpress_logged_in*"), pattern("currency")].into()),
            headers: vec![pattern("x-tenant-*")],
            ..KeyRules::default()
        };
        let rules = respect(key);
        let anonymous = map(&[("cookie", "sid=1; currency=EUR")]);
        let variant = Variant::of(&map(&[("vary", "x-tenant-b")]), presented(&anonymous), &rules).unwrap();
        for (request, matches) in [
            (map(&[("cookie", "currency=EUR; sid=2")]), true),
            (map(&[("cookie", "currency=EUR; wordpress_logged_in_ab12=bob")]), false),
            (map(&[("cookie", "currency=USD")]), false),
            (map(&[("cookie", "currency=EUR"), ("x-tenant-a", "1")]), false),
            (map(&[("cookie", "currency=EUR"), ("x-tenan", "1")]), true),
        ] {
            assert_eq!(variant.matches(presented(&request)), matches, "{request:?}");
        }
        let mut sent = map(&[("cookie", "sid=1; wordpress_logged_in_b=2; currency=EUR; wordpress_logged_in_a=1")]);
        normalise(&mut sent, &rules.key);
        assert_eq!(sent["cookie"], "wordpress_logged_in_a=1; wordpress_logged_in_b=2; currency=EUR");
    }

    #[test]
    fn requests_select_variants() {
        let gzip = [("accept-encoding", "gzip, br")];
        for (vary, stored_for, request, matches) in [
            ("", &gzip[..], &[][..], true),
            ("cookie", &[("cookie", "a=1"), ("cookie", "b=2")], &[("cookie", "a=1; b=2")], true),
            ("cookie", &[("cookie", "a=1"), ("cookie", "b=2")], &[("cookie", "a=1,b=2")], false),
            ("cookie", &[("cookie", "a=1,b=2")], &[("cookie", "a=1, b=2")], false),
            ("cookie", &[], &[("cookie", "")], false),
            ("accept-encoding", &gzip, &gzip, true),
            ("Accept-Encoding", &gzip, &[("accept-encoding", "gzip,  br")], true),
            ("accept-encoding", &gzip, &[("accept-encoding", "gzip"), ("accept-encoding", "br")], true),
            ("accept-encoding", &gzip, &[("accept-encoding", "gzip")], false),
            ("accept-encoding", &gzip, &[], false),
            ("accept-encoding", &[], &[], true),
            ("accept-encoding", &[], &gzip, false),
            (
                "accept-encoding",
                &[("accept-encoding", "gzip")],
                &[("accept-encoding", "gzip"), ("accept-encoding", "br")],
                false,
            ),
            ("accept-encoding, x-a", &[("x-a", "1")], &[("x-a", "1")], true),
            ("accept-encoding, x-a", &[("x-a", "1")], &[("x-a", "2")], false),
            ("x-a", &[("x-a", "")], &[], false),
            ("x-a", &[("x-a", "b")], &[("x-a", "B")], false),
            ("accept-encoding", &gzip, &[("accept-encoding", "GZip,BR")], true),
            ("accept-language", &[("accept-language", "en, DE")], &[("accept-language", "eN,de")], true),
        ] {
            let (stored_for, request) = (map(stored_for), map(request));
            let variant =
                Variant::of(&map(&[("vary", vary)]), presented(&stored_for), &respect(KeyRules::default())).unwrap();
            assert_eq!(variant.matches(presented(&request)), matches, "{vary}: {stored_for:?} {request:?}");
        }
    }

    #[test]
    fn vary_star_and_nonsense_match_nothing() {
        let empty = HeaderMap::new();
        for vary in ["*", "accept, *", "a b"] {
            let rules = respect(KeyRules::default());
            assert_eq!(Variant::of(&map(&[("vary", vary)]), presented(&empty), &rules), None, "{vary}");
        }
    }

    #[test]
    fn rules_count_as_if_vary_named_them() {
        let key = KeyRules {
            headers: vec!["x-country".parse().unwrap()],
            cookies: Some(["currency".parse().unwrap()].into()),
            device: true,
            accept_language: Some(["en".into(), "de".into()].into()),
            accept_encoding: Some([Coding::Gzip].into()),
            ..KeyRules::default()
        };
        let rules = respect(key);
        let phone = ("user-agent", "iPhone");
        for (vary, stored_for, request, matches) in [
            ("", &[][..], &[][..], true),
            ("", &[("x-country", "de")], &[("x-country", "de")], true),
            ("", &[("x-country", "de")], &[("x-country", "fr")], false),
            ("", &[("cookie", "currency=EUR; sid=1")], &[("cookie", "sid=2; currency=EUR")], true),
            ("", &[("cookie", "currency=EUR")], &[("cookie", "currency=USD")], false),
            ("cookie", &[("cookie", "sid=1")], &[("cookie", "sid=2")], true),
            ("", &[phone], &[("user-agent", "curl")], false),
            ("user-agent", &[("user-agent", "curl/7")], &[("user-agent", "curl/8")], true),
            ("", &[("accept-language", "de")], &[("accept-language", "en")], true),
            ("accept-language", &[("accept-language", "de")], &[("accept-language", "en")], false),
            ("accept-language", &[("accept-language", "de-AT")], &[("accept-language", "fr, de;q=0.5")], true),
            ("accept-encoding", &[("accept-encoding", "gzip, br")], &[("accept-encoding", "gzip")], true),
            ("accept-encoding", &[("accept-encoding", "gzip, br")], &[("accept-encoding", "br")], false),
        ] {
            let (stored_for, request) = (map(stored_for), map(request));
            let variant = Variant::of(&map(&[("vary", vary)]), presented(&stored_for), &rules).unwrap();
            assert_eq!(variant.matches(presented(&request)), matches, "{vary}: {stored_for:?} {request:?}");
        }
    }

    #[test]
    fn origins_see_only_what_is_told_apart() {
        let rules = KeyRules {
            cookies: Some(["a", "b"].map(|name| name.parse().unwrap()).into()),
            device: true,
            accept_language: Some(["en".into()].into()),
            accept_encoding: Some([].into()),
            ..KeyRules::default()
        };
        let mut fields = map(&[
            ("cookie", "sid=1; b=2"),
            ("cookie", "a=1"),
            ("accept-language", "fr, en-GB;q=0.5"),
            ("accept-encoding", "gzip"),
            ("x-device-class", "spoofed"),
            ("accept", "*/*"),
        ]);
        normalise(&mut fields, &rules);
        let expected = map(&[
            ("cookie", "a=1; b=2"),
            ("accept-language", "en"),
            ("accept-encoding", "identity"),
            ("x-device-class", "desktop"),
            ("accept", "*/*"),
        ]);
        assert_eq!(fields, expected);
        let mut fields = map(&[("cookie", "sid=1"), ("accept-language", "fr")]);
        normalise(&mut fields, &KeyRules { device: false, accept_encoding: None, ..rules });
        assert!(fields.is_empty(), "{fields:?}");
    }
}
