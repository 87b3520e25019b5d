//! Which of several stored responses a request selects: by `Vary` (RFC 9111 section 4.1), and by what the route's
//! rules count as if `Vary` named it.

mod axis;
mod normalise;
mod presented;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::config::model::CacheRules;
use crate::origin::forward;
use crate::plan::Side;

use axis::Axis;
pub use normalise::normalise;
pub(crate) use normalise::{as_compared, tell_who_asks};
pub use presented::Presented;

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

impl Variant {
    /// `None` for `Vary: *`, which matches no request at all.
    pub fn of(response: &HeaderMap, request: Presented<'_>, rules: &CacheRules) -> Option<Self> {
        let key = &rules.key;
        let mut axes: SmallVec<[Axis; 1]> = key.headers.iter().map(Axis::of_keyed_field).collect();
        axes.extend(key.cookies.iter().flat_map(|names| names.iter().map(Axis::of_keyed_cookie)));
        axes.extend(key.device.then_some(Axis::Device));
        axes.extend(key.country.then_some(Axis::Country));
        axes.extend((request.side != Side::Whole).then_some(Axis::Pool));
        for line in response.get_all(header::VARY) {
            for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                if name == "*" {
                    return None;
                }
                if let Some(axis) = Axis::of_vary(name.parse().ok()?, rules)
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
        // What was stored before a pool gave requests away is not for those.
        if matches!(request.side, Side::Given(_)) && !self.selectors().iter().any(|one| one.axis == Axis::Pool) {
            return false;
        }
        self.selectors().iter().all(|Selector { axis, value }| match (axis, value) {
            // The common case without allocation: one line, byte for byte the same.
            (Axis::Field(name), Some(value)) if *name != header::COOKIE && !forward::is_our_own(name) => {
                fields.get(name).is_some_and(|line| line == value.as_ref())
                    && fields.joined(name).is_some_and(|joined| joined.len() == value.len())
                    || request.value(name).as_ref() == Some(value)
            }
            (Axis::Field(name), None) if *name != header::COOKIE && !forward::is_our_own(name) => {
                !fields.contains(name)
            }
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
                Axis::Cookie(_) | Axis::Cookies(_) | Axis::Fields(_) | Axis::Device | Axis::Country | Axis::Pool => {
                    continue;
                }
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

/// Whether a response says that it is selected by `Accept-Encoding`.
pub(crate) fn names_coding(fields: &HeaderMap) -> bool {
    let lines = fields.get_all(header::VARY).iter().filter_map(|line| line.to_str().ok());
    let named = |name: &str| name == "*" || name.eq_ignore_ascii_case(header::ACCEPT_ENCODING.as_str());
    lines.flat_map(|line| line.split(',')).any(|name| named(name.trim()))
}

/// Says in a response that it is selected by `Accept-Encoding`, as caches further on have to know.
pub(crate) fn add_coding(fields: &mut HeaderMap) {
    if !names_coding(fields) {
        fields.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::super::testing::{map, presented};
    use super::*;
    use crate::config::model::{CacheMode, Coding, KeyRules, Pattern};

    fn by(client: [u8; 4], fields: &HeaderMap) -> Presented<'_> {
        Presented { client: client.into(), peer: client.into(), ..presented(fields) }
    }

    fn respect(key: KeyRules) -> CacheRules {
        CacheRules { mode: CacheMode::Respect { default_ttl: None }, key, ..CacheRules::default() }
    }

    /// Whether a request selects what was stored for another.
    fn selects(rules: &CacheRules, vary: &str, stored_for: &[(&str, &str)], request: &[(&str, &str)]) -> bool {
        let variant = Variant::of(&map(&[("vary", vary)]), presented(&map(stored_for)), rules).unwrap();
        variant.matches(presented(&map(request)))
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
        let selects = |request| selects(&rules, "cookie, x-color, accept", &[], request);
        assert!(selects(&[("cookie", "a=1"), ("x-color", "red")]) && !selects(&[("accept", "text/html")]));
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
        for (request, matches) in [
            (&[("cookie", "currency=EUR; sid=2")][..], true),
            (&[("cookie", "currency=EUR; wordpress_logged_in_ab12=bob")], false),
            (&[("cookie", "currency=USD")], false),
            (&[("cookie", "currency=EUR"), ("x-tenant-a", "1")], false),
            (&[("cookie", "currency=EUR"), ("x-tenan", "1")], true),
        ] {
            let anonymous = [("cookie", "sid=1; currency=EUR")];
            assert_eq!(selects(&rules, "x-tenant-b", &anonymous, request), matches, "{request:?}");
        }
    }

    #[test]
    fn requests_select_variants() {
        let (rules, gzip) = (respect(KeyRules::default()), [("accept-encoding", "gzip, br")]);
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
            assert_eq!(selects(&rules, vary, stored_for, request), matches, "{vary}: {stored_for:?} {request:?}");
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
            assert_eq!(selects(&rules, vary, stored_for, request), matches, "{vary}: {stored_for:?} {request:?}");
        }
    }

    #[test]
    fn vary_is_added_once() {
        for (before, after) in [
            (vec![], vec!["accept-encoding"]),
            (vec!["Accept-Encoding"], vec!["Accept-Encoding"]),
            (vec!["x-a, ACCEPT-ENCODING"], vec!["x-a, ACCEPT-ENCODING"]),
            (vec!["x-a"], vec!["x-a", "accept-encoding"]),
            (vec!["*"], vec!["*"]),
        ] {
            let mut fields = before.iter().map(|value| (header::VARY, value.parse().unwrap())).collect();
            add_coding(&mut fields);
            assert_eq!(fields.get_all("vary").iter().collect::<Vec<_>>(), after);
        }
    }
}
