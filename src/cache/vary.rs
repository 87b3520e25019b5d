//! Which of several stored responses a request selects (RFC 9111 section 4.1).

use http::{HeaderMap, HeaderName, header};
use smallvec::SmallVec;

use crate::request::Fields;

/// The request fields a response was selected by, and the values that the request had which it answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variant(SmallVec<[Selector; 1]>);

/// One field and the value it had; `None`: the request did not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Selector {
    name: HeaderName,
    value: Option<Box<[u8]>>,
}

impl Variant {
    /// `None` for `Vary: *`, which matches no request at all.
    pub fn of(response: &HeaderMap, request: Fields<'_>) -> Option<Self> {
        let mut names: SmallVec<[HeaderName; 1]> = SmallVec::new();
        for line in response.get_all(header::VARY) {
            for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                if name == "*" {
                    return None;
                }
                let name: HeaderName = name.parse().ok()?;
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        Some(Variant(names.into_iter().map(|name| Selector { value: value_of(request, &name), name }).collect()))
    }

    /// Whether a request has the same values.
    pub fn matches(&self, request: Fields<'_>) -> bool {
        self.0.iter().all(|Selector { name, value }| match value {
            // The common case without allocation: one line, byte for byte the same.
            Some(value) => {
                request.get(name).is_some_and(|line| line == value.as_ref())
                    && request.joined(name).is_some_and(|joined| joined.len() == value.len())
                    || value_of(request, name).as_ref() == Some(value)
            }
            None => !request.contains(name),
        })
    }

    /// Bytes of memory beyond the struct itself.
    pub fn weight(&self) -> usize {
        self.0.iter().map(|selector| 48 + selector.value.as_ref().map_or(0, |value| value.len())).sum()
    }
}

/// The lines of a field combined, white space around list separators removed, in lower case where case means
/// nothing (RFC 9110 sections 12.5.3 and 12.5.4).
fn value_of(request: Fields<'_>, name: &HeaderName) -> Option<Box<[u8]>> {
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
            let variant = Variant::of(&map(&[("vary", vary)]), Fields::Map(&stored_for)).unwrap();
            assert_eq!(variant.matches(Fields::Map(&request)), matches, "{vary}: {stored_for:?} {request:?}");
        }
    }

    #[test]
    fn vary_star_and_nonsense_match_nothing() {
        let empty = HeaderMap::new();
        for vary in ["*", "accept, *", "a b"] {
            assert_eq!(Variant::of(&map(&[("vary", vary)]), Fields::Map(&empty)), None, "{vary}");
        }
    }
}
