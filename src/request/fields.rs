//! Header fields of a request, whatever they are kept in.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::lines::FieldLines;

/// The header fields of a request: parsed in place by the fronts, copied, or a map.
#[derive(Clone, Copy)]
pub enum Fields<'a> {
    Parsed(Parsed<'a>),
    Lines(&'a FieldLines),
    Map(&'a HeaderMap),
}

/// Fields as a front has parsed them.
///
/// A request is asked for some thirty fields, of which it has two or three: what it does not have is known without a look
/// at those that it has.
#[derive(Clone, Copy)]
pub struct Parsed<'a> {
    fields: &'a [httparse::Header<'a>],
    /// A bit for each name. One that has none is not there; one that has it may share it with another.
    names: u64,
}

impl Parsed<'_> {
    fn may_have(self, name: &str) -> bool {
        self.names & bit(name) != 0
    }
}

/// The bit of a name, by its length and its first letter in either case. Of the names that are asked for, none shares one with
/// those that browsers send.
fn bit(name: &str) -> u64 {
    let first = name.bytes().next().unwrap_or_default() | 0x20;
    1 << ((name.len() + 3 * usize::from(first)) % 64)
}

impl<'a> Fields<'a> {
    /// Those that a front has parsed.
    pub fn parsed(fields: &'a [httparse::Header<'a>]) -> Self {
        let names = fields.iter().fold(0, |names, field| names | bit(field.name));
        Fields::Parsed(Parsed { fields, names })
    }

    /// The first value of a field.
    #[inline]
    pub fn get(self, name: &HeaderName) -> Option<&'a [u8]> {
        if self.surely_lacks(name) { None } else { self.find_map(name, Some) }
    }

    /// Whether a field is not there, as far as that is known without a look.
    #[inline]
    fn surely_lacks(self, name: &HeaderName) -> bool {
        matches!(self, Fields::Parsed(parsed) if !parsed.may_have(name.as_str()))
    }

    /// The first value, if it is text.
    pub fn get_str(self, name: &HeaderName) -> Option<&'a str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    #[inline]
    pub fn contains(self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Calls `each` with every line of a field, in order.
    pub fn for_each(self, name: &HeaderName, mut each: impl FnMut(&'a [u8])) {
        let _: Option<()> = self.find_map(name, |line| {
            each(line);
            None
        });
    }

    /// What `find` makes of the first line of a field of which it makes something.
    pub fn find_map<T>(self, name: &HeaderName, mut find: impl FnMut(&'a [u8]) -> Option<T>) -> Option<T> {
        match self {
            Fields::Parsed(parsed) => {
                let name = name.as_str();
                if !parsed.may_have(name) {
                    return None;
                }
                let mut lines = parsed.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
                lines.find_map(|field| find(field.value))
            }
            Fields::Lines(lines) => {
                let name = name.as_str();
                lines.iter().find_map(|(field, value)| (field == name).then(|| find(value)).flatten())
            }
            Fields::Map(map) => map.get_all(name).iter().find_map(|value| find(value.as_bytes())),
        }
    }

    /// Calls `each` with the name and value of every line of every field.
    pub fn for_all(self, mut each: impl FnMut(&'a str, &'a [u8])) {
        match self {
            Fields::Parsed(parsed) => parsed.fields.iter().for_each(|field| each(field.name, field.value)),
            Fields::Lines(lines) => lines.iter().for_each(|(name, value)| each(name, value)),
            Fields::Map(map) => map.iter().for_each(|(name, value)| each(name.as_str(), value.as_bytes())),
        }
    }

    /// All lines of a field joined as one list (RFC 9110 section 5.3), or `None` if it is absent.
    pub fn joined(self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        let mut joined: Option<Cow<'a, [u8]>> = None;
        self.for_each(name, |value| {
            joined = Some(match joined.take() {
                None => Cow::Borrowed(value),
                Some(before) => Cow::Owned([before.as_ref(), b", ", value].concat()),
            });
        });
        joined
    }

    /// The same as text.
    pub fn joined_text(self, name: &HeaderName) -> Option<Cow<'a, str>> {
        Some(match self.joined(name)? {
            Cow::Borrowed(value) => text(value),
            Cow::Owned(value) => text(&value).into_owned().into(),
        })
    }

    /// A copy of all fields.
    pub fn to_lines(self) -> FieldLines {
        let (mut count, mut names, mut values) = (0, 0, 0);
        self.for_all(|name, value| {
            count += 1;
            names += name.len();
            values += value.len();
        });
        let mut lines = FieldLines::with_room(count, names, values);
        self.for_all(|name, value| lines.put_in_lower_case(name, value));
        lines
    }

    /// A map of all fields. Those whose name or value `http` refuses were refused by the front.
    pub fn to_map(self) -> HeaderMap {
        if let Fields::Map(map) = self {
            return map.clone();
        }
        let mut map = HeaderMap::new();
        self.for_all(|name, value| {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        });
        map
    }
}

/// A value as text; what is not UTF-8 in it, as the character for that. Nearly all are ASCII, which is seen at once.
pub(crate) fn text(value: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_the_same_from_either_front() {
        let parsed = [
            httparse::Header { name: "Accept", value: b"a" },
            httparse::Header { name: "X-One", value: b"1" },
            httparse::Header { name: "accept", value: b"b" },
        ];
        let parsed = Fields::parsed(&parsed);
        let (map, lines) = (parsed.to_map(), parsed.to_lines());
        for fields in [parsed, Fields::Map(&map), Fields::Lines(&lines)] {
            assert_eq!(fields.joined(&http::header::ACCEPT).unwrap().as_ref(), b"a, b");
            assert_eq!(fields.get(&http::header::ACCEPT), Some(b"a".as_slice()));
            assert!(fields.joined(&http::header::HOST).is_none());
        }
    }

    #[test]
    fn whatever_the_case_of_a_name_it_is_found() {
        for name in ["a", "A", "x-1", "X-1", "~a", "_B", "If-None-Match", "IF-NONE-MATCH", "1-z"] {
            let field = [httparse::Header { name, value: b"v" }];
            let lower: HeaderName = name.to_ascii_lowercase().parse().unwrap();
            assert_eq!(Fields::parsed(&field).get(&lower), Some(b"v".as_slice()), "{name}");
        }
    }

    /// The bits say nothing that a look at all fields would not.
    #[test]
    fn of_any_fields_those_are_found_that_are_there() {
        let mut random = fastrand::Rng::with_seed(5);
        let tchars: Vec<u8> = (0..128).filter(|byte| crate::request::is_tchar(*byte)).collect();
        let mut name = || -> String {
            (0..random.usize(1..4)).map(|_| char::from(tchars[random.usize(..tchars.len())])).collect()
        };
        for _ in 0..2_000 {
            let names: Vec<String> = (0..6).map(|_| name()).collect();
            let fields: Vec<_> = names.iter().map(|name| httparse::Header { name, value: b"v" }).collect();
            let asked = names.iter().cloned().chain((0..20).map(|_| name())).map(|name| name.to_ascii_lowercase());
            for asked in asked.collect::<Vec<_>>() {
                let is_there = names.iter().any(|name| name.eq_ignore_ascii_case(&asked));
                let found = Fields::parsed(&fields).contains(&asked.parse().unwrap());
                assert_eq!(found, is_there, "{asked} {names:?}");
            }
        }
    }
}
