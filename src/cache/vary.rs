//! Which of several stored responses a request selects: by `Vary` (RFC 9111 section 4.1), and by what the route's
//! rules count as if `Vary` named it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::config::model::{Coding, KeyRules};
use crate::request::Fields;

use super::negotiate;

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
}

impl Axis {
    fn value(&self, request: Fields<'_>) -> Option<Box<[u8]>> {
        match self {
            Axis::Field(name) => field_value(request, name),
            Axis::Cookie(name) => negotiate::cookie(request, name).map(Into::into),
            Axis::Device => Some(negotiate::device(request).as_bytes().into()),
            Axis::Encoding(offered) => {
                negotiate::best_coding(request, offered.iter().copied()).map(|coding| coding.as_str().as_bytes().into())
            }
            Axis::Language(offered) => negotiate::best_language(request, offered).map(|tag| tag.as_bytes().into()),
        }
    }

    /// As operators know it.
    fn name(&self) -> String {
        match self {
            Axis::Field(name) => name.to_string(),
            Axis::Cookie(name) => format!("cookie {name}"),
            Axis::Device => "device".into(),
            Axis::Encoding(_) => header::ACCEPT_ENCODING.to_string(),
            Axis::Language(_) => header::ACCEPT_LANGUAGE.to_string(),
        }
    }
}

impl Variant {
    /// `None` for `Vary: *`, which matches no request at all.
    pub fn of(response: &HeaderMap, request: Fields<'_>, rules: &KeyRules) -> Option<Self> {
        let mut axes: SmallVec<[Axis; 1]> = rules.headers.iter().cloned().map(Axis::Field).collect();
        axes.extend(rules.cookies.iter().flat_map(|names| names.iter().cloned().map(Axis::Cookie)));
        axes.extend(rules.device.then_some(Axis::Device));
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
        let selectors = axes.into_iter().map(|axis| Selector { value: axis.value(request), axis }).collect();
        Some(Variant(Some(selectors).filter(|selectors: &Selectors| !selectors.is_empty()).map(Box::new)))
    }

    fn selectors(&self) -> &[Selector] {
        self.0.as_deref().map_or(&[], |selectors| selectors)
    }

    /// Whether a request has the same values.
    pub fn matches(&self, request: Fields<'_>) -> bool {
        self.selectors().iter().all(|Selector { axis, value }| match (axis, value) {
            // The common case without allocation: one line, byte for byte the same.
            (Axis::Field(name), Some(value)) if *name != header::COOKIE => {
                request.get(name).is_some_and(|line| line == value.as_ref())
                    && request.joined(name).is_some_and(|joined| joined.len() == value.len())
                    || field_value(request, name).as_ref() == Some(value)
            }
            (Axis::Field(name), None) => !request.contains(name),
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
                Axis::Cookie(_) | Axis::Device => continue,
            };
            if let Some(value) = value.as_deref().and_then(|value| HeaderValue::from_bytes(value).ok()) {
                fields.insert(name, value);
            }
        }
        fields
    }

    /// What it is selected by, with the values, for people to read.
    pub fn describe(&self) -> Vec<(String, Option<String>)> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        self.selectors().iter().map(|selector| (selector.axis.name(), selector.value.as_deref().map(text))).collect()
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

/// How a field that `Vary` names is read under the rules; `None`: what it says is counted already.
fn axis(name: HeaderName, rules: &KeyRules) -> Option<Axis> {
    match name {
        header::ACCEPT_ENCODING => match &rules.accept_encoding {
            Some(offered) if offered.is_empty() => None, // all are asked for alike
            Some(offered) => Some(Axis::Encoding(offered.clone())),
            None => Some(Axis::Field(name)),
        },
        header::ACCEPT_LANGUAGE => Some(match &rules.accept_language {
            Some(offered) => Axis::Language(offered.clone()),
            None => Axis::Field(name),
        }),
        header::COOKIE if rules.cookies.is_some() => None,
        header::USER_AGENT if rules.device => None,
        name if name == negotiate::DEVICE_CLASS && rules.device => None,
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
    if let Some(names) = &rules.cookies {
        let pair = |name: &str| Some([name.as_bytes(), b"=", negotiate::cookie(request, name)?].concat());
        let pairs: Vec<Vec<u8>> = names.iter().filter_map(|name| pair(name)).collect();
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
fn field_value(request: Fields<'_>, name: &HeaderName) -> Option<Box<[u8]>> {
    if *name == header::COOKIE {
        return cookies(request); // no list: a comma is part of a value, and origins get one line
    }
    let mut joined = request.joined(name)?;
    if matches!(*name, header::ACCEPT_LANGUAGE | header::ACCEPT_ENCODING) {
        joined = joined.to_ascii_lowercase().into();
    }
    if !joined.contains(&b',') {
        return Some(joined.trim_ascii().into());
    }
    let parts: Vec<&[u8]> = joined.split(|b| *b == b',').map(<[u8]>::trim_ascii).collect();
    Some(parts.join(&b',').into())
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

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
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
            let variant = Variant::of(&map(&[("vary", vary)]), Fields::Map(&stored_for), &KeyRules::default()).unwrap();
            assert_eq!(variant.matches(Fields::Map(&request)), matches, "{vary}: {stored_for:?} {request:?}");
        }
    }

    #[test]
    fn vary_star_and_nonsense_match_nothing() {
        let empty = HeaderMap::new();
        for vary in ["*", "accept, *", "a b"] {
            assert_eq!(Variant::of(&map(&[("vary", vary)]), Fields::Map(&empty), &KeyRules::default()), None, "{vary}");
        }
    }

    #[test]
    fn rules_count_as_if_vary_named_them() {
        let rules = KeyRules {
            headers: vec![HeaderName::from_static("x-country")],
            cookies: Some(["currency".into()].into()),
            device: true,
            accept_language: Some(["en".into(), "de".into()].into()),
            accept_encoding: Some([Coding::Gzip].into()),
            ..KeyRules::default()
        };
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
            let variant = Variant::of(&map(&[("vary", vary)]), Fields::Map(&stored_for), &rules).unwrap();
            assert_eq!(variant.matches(Fields::Map(&request)), matches, "{vary}: {stored_for:?} {request:?}");
        }
    }

    #[test]
    fn origins_see_only_what_is_told_apart() {
        let rules = KeyRules {
            cookies: Some(["a".into(), "b".into()].into()),
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
